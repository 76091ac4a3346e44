"""What TorchServe is told: addresses, folders, and its own configuration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from eideticnet.serving.errors import MOST_BYTES
from eideticnet.serving.home.addresses import Network, Ports

YEAR_IN_MINUTES = 525_600
HEAP_MEGABYTES = 2048
"""Java's heap: room for a full queue and a batch of the largest requests. It would be a quarter of the
machine's memory, and grow into that before anything is collected."""
_WORKER = 9000
"""Workers' sockets, which are files, are numbered from here."""
_OPEN_INFERENCE = "TS_OPEN_INFERENCE_PROTOCOL"
_FOREIGN = ("TS_", "JAVA", "_JAVA", "JDK_", "PYTHONPATH")
"""Variables meant for another TorchServe, Java or Python; the protocol of gRPC is the operator's choice."""
_NO_URL = "(?!)"
"""Matches nothing: archives are registered by their name in the store. Under ``file://STORE/.*`` TorchServe
copies ``STORE/../../any.mar`` into the store before it refuses the dots, and then loads it by that name."""


def config_properties(
    ports: Ports,
    model_store: Path,
    models: Sequence[tuple[str, str]],
    network: Network = Network(),
    token_minutes: int = YEAR_IN_MINUTES,
) -> str:
    """TorchServe's configuration file; ``models`` are (name, archive file name) pairs to begin with."""
    tls = {}
    if network.certificate:
        tls = {"certificate_file": network.certificate, "private_key_file": network.private_key}
        tls["enable_grpc_ssl"] = "true"  # type: ignore[assignment]
    lines = {
        "inference_address": f"{network.scheme}://{network.host}:{ports.inference}",
        "management_address": f"{network.scheme}://{network.management_host}:{ports.management}",
        "grpc_inference_address": network.host,
        "grpc_management_address": network.management_host,
        "grpc_inference_port": ports.grpc_inference,
        "grpc_management_port": ports.grpc_management,
        "initial_worker_port": _WORKER,
        "model_store": model_store,
        "load_models": ",".join(f"{name}={file}" for name, file in models),
        "allowed_urls": _NO_URL,
        "enable_model_api": "true",
        "token_expiration_min": token_minutes,
        "disable_token_authorization": "false",
        "max_request_size": MOST_BYTES,  # TorchServe's own default, stated so that it stays
        "install_py_dep_per_model": "false",
        "enable_metrics_api": "false",  # whose port asks for no key
        "disable_system_metrics": "true",
        "decode_input_request": "false",  # JSON would be parsed slowly; the environment is not asked
        **tls,
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


LOG4J2 = r"""<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="error">
  <Appenders>
    <Console name="out" target="SYSTEM_OUT">
      <PatternLayout alwaysWriteExceptions="false"
                     pattern="%d{ISO8601} [%-5p] %c - %maxLen{%replace{%m %ex{1}}{\s+}{ }}{1000}%n"/>
    </Console>
  </Appenders>
  <Loggers>
    <Logger name="io.netty" level="error"/>
    <Logger name="MODEL_LOG" level="warn"/>
    <Logger name="ACCESS_LOG" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="org.pytorch.serve.http" level="warn">
      <!-- anyone who reaches a port writes these lines, key or not -->
      <BurstFilter level="ERROR" rate="1" maxBurst="50"/>
    </Logger>
    <Root level="warn"><AppenderRef ref="out"/></Root>
  </Loggers>
</Configuration>
"""


def environment(java_home: Path, home: Path) -> dict[str, str]:
    """The environment of TorchServe and its workers: our Java, our folders, one thread each."""
    return {
        **{k: v for k, v in os.environ.items() if k == _OPEN_INFERENCE or not k.startswith(_FOREIGN)},
        **_python_path(),
        "JAVA_HOME": str(java_home),
        "PATH": os.pathsep.join([str(java_home / "bin"), os.environ.get("PATH", os.defpath)]),
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(home)),
        **dict.fromkeys(("LOG_LOCATION", "METRICS_LOCATION"), str(home / "logs")),
        "OMP_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _python_path() -> dict[str, str]:
    """PYTHONPATH without folders of handlers, which would come before those that archives hold."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [path for path in paths if path and not any(Path(path).glob("eidetic_*"))]
    return {"PYTHONPATH": os.pathsep.join(kept)} if kept else {}
