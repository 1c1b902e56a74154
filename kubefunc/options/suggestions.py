"""Other tools' names for what kubefunc's options do, and slips of the pen. Needed only when a name is wrong already."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

_LEAST_ALIKE: Final = 0.8  # below this a suggestion is nonsense as often as not: 'packages' and 'progress' have 0.5

# The option, and its names in Modal, Ray, Dask, Airflow, submitit, joblib, Celery, kubectl, Docker and Kubernetes.
_SYNONYMS: Final = {
    "cpu": "cpus num_cpus n_cpus ncpus num_cpu cores ncores num_cores n_cores vcpus cpu_request cpu_count "
    "cpus_per_task requests_cpu",
    "memory": "mem ram mem_gb memory_gb memory_mb memory_limit memory_request mem_limit mem_per_cpu requests_memory",
    "gpu": "gpus num_gpus n_gpus ngpus gpu_count gpu_type gpus_per_node accelerator accelerators",
    "image": "container_image docker_image base_image image_name container docker image_uri python python_version",
    "timeout": "time_limit timelimit soft_time_limit max_runtime walltime max_time timeout_s timeout_min "
    "timeout_seconds execution_timeout run_timeout",
    "retries": "max_retries num_retries n_retries retry attempts max_attempts tries max_tries retry_count max_restarts "
    "restart_policy",
    "retry_exceptions": "retry_on retry_for autoretry_for retry_on_exceptions retryable_exceptions",
    "max_disruptions": "max_preemptions preemptions",
    "backoff_limit": "backoff_limit_per_index job_backoff_limit pod_retries",
    "deadline": "active_deadline_seconds job_timeout startup_timeout startup_timeout_seconds",
    "schedule_timeout": "pending_timeout queue_timeout wait_timeout",
    "env": "env_vars envs environ environment environment_variables env_variables envvars secret_env_vars",
    "namespace": "ns k8s_namespace kube_namespace",
    "context": "cluster cluster_name kube_context cluster_context config_context",
    "labels": "label tags tag pod_labels",
    "annotations": "annotation pod_annotations",
    "node_selector": "node_selectors node_labels instance_type machine_type node_type node_pool nodepool",
    "tolerations": "toleration taints tolerate",
    "service_account": "sa service_account_name",
    "image_pull_secrets": "image_pull_secret pull_secret pull_secrets registry_secret registry_credentials",
    "image_pull_policy": "pull_policy image_pull",
    "run_as_user": "user uid run_as user_id",
    "priority_class": "priority priority_class_name",
    "gang": "replicas nodes num_nodes nnodes world_size n_ranks ranks completions",
    "ports": "port container_port container_ports expose exposed_ports target_port",
    "service": "service_name load_balancer service_type",
    "detach": "detached fire_and_forget keep_alive background",
    "verbose": "quiet silent stream_logs log_output get_logs show_logs output",
    "packages": "package pip pip_packages pip_install requirements dependencies deps runtime_env modules imports",
    "package_index": "index_url index extra_index_url pip_index_url pypi",
    "progress": "progress_bar show_progress tqdm",
    "ttl": "ttl_seconds_after_finished ttl_seconds keep_finished",
    "volumes": "volume volume_mounts volume_mount mounts mount pvc pvcs persistent_volume_claim disk disks",
    "pod_template": "pod_spec pod_override full_pod_spec pod_template_file template",
    "job_template": "job_spec job_manifest job_override",
    "untrusted": "sandbox sandboxed isolated isolation trusted safe",
    "runtime_class": "runtime_class_name runtime",
    "queue": "queue_name local_queue kueue_queue local_queue_name",
    "affinity": "affinities node_affinity pod_affinity pod_anti_affinity anti_affinity",
    "topology_spread": "topology_spread_constraints spread",
    "init_containers": "init_container init",
    "sidecars": "sidecar sidecar_containers side_cars extra_containers",
    "host_aliases": "extra_hosts hostaliases add_host",
    "security_context": "container_security_context pod_security_context securitycontext",
}
# What no option of ours does under a name like it, and what does it instead.
_ELSEWHERE: Final = {
    "name job_name task_name call_name pod_name display_name": (
        "A Job is named after its function. To find it, give it labels={'...': '...'}."
    ),
    "secrets secret secret_name secret_keys": (
        "For a variable from a Secret use env={'NAME': SecretKey('secret', 'key')}. To mount a Secret, use "
        "volumes={'/path': Secret('secret')} (kubefunc.volumes)."
    ),
    "config_map config_maps configmap": (
        "For a variable from a ConfigMap use env={'NAME': ConfigMapKey('name', 'key')}. To mount one, use "
        "volumes={'/path': ConfigMap('name')} (kubefunc.volumes)."
    ),
    "env_from": "Name each variable: env={'NAME': SecretKey('secret', 'key')}. For all of its keys, use pod_template.",
    "shm_size shared_memory": (
        "Mount memory there: volumes={'/dev/shm': EmptyDir('1Gi', memory=True)} (kubefunc.volumes)."
    ),
    "conda conda_env conda_packages environment_yml": (
        "packages=[...] installs with uv or pip. For conda, use an image: image='registry.example/team/base:1'."
    ),
    "n_jobs max_workers workers num_workers n_workers concurrency max_containers parallelism max_parallelism "
    "concurrency_limit array_parallelism": (
        "Set how many run at once where you start them: f.map(..., max_parallelism=10), or "
        "kubefunc.Executor(max_workers=10)."
    ),
    "chunksize chunk_size batch_size return_exceptions kwargs": "It is an argument of map: f.map(..., chunksize=10).",
    "resources requests limits container_resources": "Use cpu=, memory= and gpu=. Set others with pod_template.",
    "backend": "Set the backend for the whole program: kubefunc.configure(backend='local'), or KUBEFUNC_BACKEND=local.",
    "kubeconfig config_file kube_config": "Set the file with KUBECONFIG, and the context in it with context=.",
    "command cmd args entrypoint": "The container runs the function itself; pass arguments to f.remote(...).",
    "host_network host_pid host_users node_name dns_policy dns_config scheduler_name working_dir workdir cwd lifecycle "
    "ephemeral_storage storage": (
        "Set it with pod_template, as in a Pod's spec: pod_template={'dnsPolicy': 'Default'}."
    ),
    "suspend completion_mode pod_failure_policy active_deadline": (
        "Set other fields of the Job with job_template={'spec': {...}}."
    ),
    "wait blocking asynchronous async_": "f.remote() returns at once; .result() waits.",
}


def suggestion(name: str, known: Iterable[str]) -> str:
    """The option that a wrong name probably means, or the list of all options.

    >>> suggestion("num_cpus", ["cpu", "memory"])
    "Did you mean 'cpu'?"
    >>> suggestion("packagers", ["progress", "cpu"])
    'The options are: progress, cpu.'
    """
    options = list(known)
    plain = _plain(name)
    if plain in options:
        return f"Did you mean {plain!r}?"
    for option, names in _SYNONYMS.items():
        if plain in names.split() and option in options:
            return f"Did you mean {option!r}?"
    for names, advice in _ELSEWHERE.items():
        if plain in names.split():
            return advice
    near = _near(plain, options)
    return f"Did you mean {near!r}?" if near else f"The options are: {', '.join(options)}."


def _plain(name: str) -> str:
    """``imagePullSecrets`` as ``image_pull_secrets``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()


def _near(name: str, options: list[str]) -> str | None:
    """The option that differs from this name by one letter, or by two exchanged letters."""
    exchanged = [option for option in options if sorted(option) == sorted(name)]
    return next(iter(exchanged or difflib.get_close_matches(name, options, n=1, cutoff=_LEAST_ALIKE)), None)
