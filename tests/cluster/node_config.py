"""What the components of a node are told: command lines and configuration files, as data."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import needs, registry
from tests.cluster.images import PAUSE_IMAGE
from tests.cluster.inside import Component

API_PORT = 443
# The Service address of the API server is an address of the node itself: Pods reach it without kube-proxy.
SERVICE_ADDRESS = "10.96.0.1"
_SERVICE_RANGE = "10.96.0.0/24"
# CoreDNS, too, listens on an address of the node.
DNS_ADDRESS = "10.96.0.10"
POD_RANGE = "203.0.113.0/24"  # TEST-NET-3; a second node would take 192.0.2.0/24
PROXY_HEALTH_PORT = 10256
ETCD = "127.0.0.1:2379"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
# The node's directory as it is seen inside.
HERE = "/run/cluster"


@dataclass(frozen=True)
class User:
    """A bearer of a fixed token. ``name`` also names its kubeconfig file."""

    name: str
    user: str
    groups: Sequence[str]

    @property
    def token(self) -> str:
        # Not secret: nobody but this machine reaches the API server.
        return f"token-of-{self.name}"


def users(node: str) -> list[User]:
    """Everyone who has a fixed token."""
    return [
        User("admin", "admin", ["system:masters"]),
        User("kubelet", f"system:node:{node}", ["system:nodes"]),
        # Not with a ServiceAccount for each controller: making those takes 4 s of every start.
        User("kube-controller-manager", "system:kube-controller-manager", ["system:masters"]),
        User("kube-scheduler", "system:kube-scheduler", []),
        User("kube-proxy", "system:kube-proxy", ["system:masters"]),
        User("coredns", "system:serviceaccount:kube-system:coredns", ["system:masters"]),
    ]


def components(binary: Path, dns: Path, node: str, address: str) -> list[Component]:
    """The components in the order of their needs."""
    api = f"https://127.0.0.1:{API_PORT}/readyz"
    etcd_host, etcd_port = ETCD.split(":")
    return [
        {"name": "containerd", "after": [], "command": ["containerd", "--config", f"{HERE}/containerd.toml"]},
        {"name": "registry", "after": [], "command": [sys.executable, "-I", "-S", f"{HERE}/registry.py"]},
        {"name": "etcd", "after": [], "command": [str(binary), "etcd", "/var/lib/etcd", etcd_port, "2380"]},
        {
            "name": "kube-apiserver",
            "after": [f"tcp:{etcd_host}:{etcd_port}"],
            "command": [str(binary), "kube-apiserver", *_api_server_flags(address)],
        },
        {
            "name": "kube-controller-manager",
            "after": [api],
            "command": [str(binary), "kube-controller-manager", *_controller_manager_flags()],
        },
        {
            "name": "kube-scheduler",
            "after": [api],
            "command": [
                *(str(binary), "kube-scheduler", "--leader-elect=false", "--secure-port=0"),
                f"--kubeconfig={HERE}/kube-scheduler.kubeconfig",
            ],
        },
        {
            "name": "kubelet",
            "after": [api, f"unix:{CONTAINERD_SOCKET}"],
            "command": [
                *(str(binary), "kubelet", f"--config={HERE}/kubelet.json"),
                f"--kubeconfig={HERE}/kubelet.kubeconfig",
                f"--hostname-override={node}",
                f"--node-ip={address}",
            ],
        },
        {
            "name": "kube-proxy",
            "after": [api],
            "command": [str(binary), "kube-proxy", f"--config={HERE}/kube-proxy.json", f"--hostname-override={node}"],
        },
        {"name": "coredns", "after": [api], "command": [str(dns), "-conf", f"{HERE}/Corefile"]},
    ]


def _api_server_flags(address: str) -> list[str]:
    return [
        f"--etcd-servers=http://{ETCD}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={address}",
        f"--secure-port={API_PORT}",
        f"--tls-cert-file={HERE}/server.crt",
        f"--tls-private-key-file={HERE}/server.key",
        f"--token-auth-file={HERE}/tokens.csv",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={HERE}/accounts.pub",
        f"--service-account-signing-key-file={HERE}/accounts.key",
        f"--service-cluster-ip-range={_SERVICE_RANGE}",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true",
        f"--audit-policy-file={HERE}/audit-policy.json",
        f"--audit-log-path={HERE}/audit.log",
        "--profiling=false",
    ]


def _controller_manager_flags() -> list[str]:
    return [
        f"--kubeconfig={HERE}/kube-controller-manager.kubeconfig",
        f"--service-account-private-key-file={HERE}/accounts.key",
        f"--root-ca-file={HERE}/ca.crt",
        "--leader-elect=false",
        "--secure-port=0",
        "--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins",
    ]


def files(node: str, address: str, cgroup: str) -> Mapping[str, str]:
    """The configuration files of a node: path below its directory -> content."""
    return {
        "tokens.csv": "".join(f'{u.token},{u.user},{u.name},"{",".join(u.groups)}"\n' for u in users(node)),
        "containerd.toml": _containerd_config(),
        "cni/10-pods.conflist": json.dumps(_pod_network(), indent=1),
        "images.d/_default/hosts.toml": _image_host(f"http://127.0.0.1:{registry.PORT}"),
        # For images whose registry cannot be reached at all: nothing listens there.
        "images.d/unreachable.invalid/hosts.toml": _image_host("http://127.0.0.1:9"),
        "kubelet.json": json.dumps(_kubelet_config(address, cgroup), indent=1),
        "kube-proxy.json": json.dumps(_kube_proxy_config(), indent=1),
        "Corefile": _CORE_FILE,
        "audit-policy.json": json.dumps(_audit_policy(), indent=1),
    }


def _image_host(url: str) -> str:
    return f'server = "{url}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'


def _containerd_config() -> str:
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE every sandbox fails otherwise, with
    # "can't get final child's PID from pipe: EOF". opt.path: the default is made on the machine's own disk.
    return f"""version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[debug]
  level = "warn"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{needs.CNI_PLUGINS}"
  conf_dir = "{HERE}/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "{HERE}/images.d"
"""


def _pod_network() -> Mapping[str, object]:
    addresses = {"type": "host-local", "ranges": [[{"subnet": POD_RANGE}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}


def _kubelet_config(address: str, cgroup: str) -> Mapping[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        # Open to all who reach it, and only this machine does.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "oomScoreAdj": 0,
        "podPidsLimit": 256,  # the default is no limit: a fork bomb would take the machine down
        "maxPods": 200,
        # Volumes are measured once in one to two of these periods; by default, a minute each.
        "volumeStatsAggPeriod": "5s",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "healthzPort": 0,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    }


def _kube_proxy_config() -> Mapping[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{HERE}/kube-proxy.kubeconfig"},
        "mode": "iptables",
        "clusterCIDR": POD_RANGE,
        # Answers between two Pods of one bridge go past iptables where br_netfilter is not loaded: let all answers come
        # by way of the node.
        "iptables": {"masqueradeAll": True, "minSyncPeriod": "0s"},
        # Zeros leave the kernel's own values, which belong to the whole machine.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "metricsBindAddress": "127.0.0.1:10249",
        "healthzBindAddress": f"127.0.0.1:{PROXY_HEALTH_PORT}",
    }


# Names outside the cluster do not exist, and that is said at once.
_CORE_FILE = f""". {{
  bind {DNS_ADDRESS}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {HERE}/coredns.kubeconfig
    ttl 1
  }}
  template ANY ANY . {{
    rcode NXDOMAIN
  }}
}}
"""


def _audit_policy() -> Mapping[str, object]:
    """Who asked for what, of all but the cluster's own parts: tests count a user's requests in it."""
    parts = [
        "system:apiserver",
        "system:kube-controller-manager",
        "system:kube-scheduler",
        "system:anonymous",
    ]
    groups = ["system:nodes", "system:serviceaccounts:kube-system", "system:masters"]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "users": parts},
            {"level": "None", "userGroups": groups},
            {"level": "Metadata"},
        ],
    }
