"""Asks `broker config check` about what compose.yaml and kubernetes.yaml start a node with.

Called by scripts/check-deploy with the path of a broker.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import yaml

FOLDER = pathlib.Path(__file__).parent
BROKER = str(pathlib.Path(sys.argv[1]).resolve())


def check(name, arguments, environment, folder):
    """One node; ends the program with what the broker says."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("HYDRANT__")}
    done = subprocess.run(
        [BROKER, "config", "check", *arguments],
        env=known | environment, cwd=folder, capture_output=True, text=True, check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{name}: {done.stdout}{done.stderr}")
    print(f"{name}: {done.stdout.strip()}")


def compose(folder):
    """Every service that is built here."""
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    nodes = {name: service for name, service in services.items() if "build" in service}
    assert len(nodes) == 3, "compose.yaml has three nodes"
    for name, service in nodes.items():
        check(f"compose.yaml, {name}", service["command"], service["environment"], folder)


def kubernetes(folder):
    """Every container of the StatefulSet, as the first pod, with the files of its ConfigMap."""
    documents = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
    of_kind = {document["kind"]: document for document in documents}
    for name, text in of_kind["ConfigMap"]["data"].items():
        pathlib.Path(folder, name).write_text(text)
    pod = of_kind["StatefulSet"]["metadata"]["name"] + "-0"
    for container in of_kind["StatefulSet"]["spec"]["template"]["spec"]["containers"]:
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        arguments = [
            argument.replace("$(POD_NAME)", pod)
            .replace("$(POD_IP)", "10.0.0.1")
            .replace(mounts["config"], folder)
            for argument in container["args"]
        ]
        check(f"kubernetes.yaml, {pod}", arguments, {}, folder)


with tempfile.TemporaryDirectory() as elsewhere:
    compose(elsewhere)
    kubernetes(elsewhere)
