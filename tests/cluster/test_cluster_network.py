"""The test cluster has DNS and Services, as the tests of gangs and of ``service=`` need them."""

from __future__ import annotations

from tests.cluster.pods import IMAGE, pod, wait_for_phase
from tests.cluster.spaces import Space

ANSWER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(os.uname().nodename.encode())
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""
ASK = """
import socket, time, urllib.request
seen, deadline = set(), time.monotonic() + 30
while len(seen) < 2 and time.monotonic() < deadline:
    try:
        seen.add(urllib.request.urlopen("http://front:80/", timeout=2).read().decode())
    except OSError:
        time.sleep(0.1)
print(sorted(seen))
try:
    socket.getaddrinfo("no-such-name.example", 80)
except socket.gaierror as error:
    print(error.errno == socket.EAI_NONAME)
"""
LOOK_UP = """
import socket, time
for _ in range(100):
    try:
        print(socket.gethostbyname("one.ring"))
        break
    except OSError:
        time.sleep(0.1)
"""


def _server(name: str) -> dict[str, object]:
    made = pod(name, ANSWER)
    made["metadata"] = {"name": name, "labels": {"app": "front"}}
    return made


def test_a_service_spreads_requests_over_its_pods(kube: Space) -> None:
    """A Pod finds a Service by its name, and different Pods answer; names outside the cluster do not exist."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "front"},
        "spec": {"selector": {"app": "front"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    for each in (_server("one"), _server("two"), service):
        kube.admin.apply(each)
    for name in ("one", "two"):
        wait_for_phase(kube.admin, name, "Running")
    kube.admin.apply(pod("asks", ASK, IMAGE))
    wait_for_phase(kube.admin, "asks", "Succeeded")
    assert kube.admin.run("logs", "asks") == "['one', 'two']\nTrue\n"


def test_a_headless_service_names_each_pod(kube: Space) -> None:
    """The Pods of a headless Service have names of their own, also before they are ready."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "ring"},
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"app": "front"}},
    }
    kube.admin.apply(service)
    named = _server("one")
    named["spec"] |= {"hostname": "one", "subdomain": "ring"}  # type: ignore[operator]
    kube.admin.apply(named)
    wait_for_phase(kube.admin, "one", "Running")
    kube.admin.apply(pod("asks", LOOK_UP))
    wait_for_phase(kube.admin, "asks", "Succeeded")
    address = kube.admin.get("pod", "one")["status"]["podIP"]
    assert kube.admin.run("logs", "asks") == f"{address}\n"
