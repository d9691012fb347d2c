"""Runs the container of a pod's manifest as processes: what a kubelet and a runtime would do.

A pod has its network namespace with an address of its own. The container has its own root, which is
read-only where the manifest says so, the manifest's user, no capabilities, and its command as
process number 1. In place of the image's files it sees this machine's Python and this clone.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.files import ROOT, Stage, stages

Manifest = dict[str, Any]
# Where containers see this clone and this Python, which may be where a volume is mounted.
_CLONE, _PYTHON = "/srv/vgate", "/srv/python"
_CONTAINER = Path(__file__).with_name("container.py")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nvgate:x:10001:10001::/var/lib/vgate:/usr/sbin/nologin\n"
# A name in /etc/hosts may have several addresses.
_NAMES = {"/etc/nsswitch.conf": "hosts: files\n", "/etc/host.conf": "multi on\n"}
# Of the kubelet: 10 s, then twice as long each time.
_RESTART_S = 1.0


def image_of(name: str) -> Stage:
    """Return the stage of the Dockerfile that an image's tag names."""
    return stages()["vgate-" + name.rpartition("-")[2]]


def make_image(directory: Path) -> None:
    """Make what an image has beside the packages of this machine's Python."""
    python = Path(_PYTHON, Path(sys.executable).relative_to(sys.prefix))
    programs = directory / "opt/vgate/bin"
    programs.mkdir(parents=True)
    for name, arguments in (("vgate", '-m vgate.launcher "$@"'), ("python3", '"$@"')):
        program = programs / name
        program.write_text(f"#!/bin/sh\nexec {python} {arguments}\n")
        program.chmod(0o755)
    library = directory / "usr/local/lib/vgate"
    library.mkdir(parents=True)
    shutil.copy(ROOT / "deploy/docker/health.py", library)
    for folder in [directory, *directory.rglob("*")]:
        if folder.is_dir():
            folder.chmod(0o755)


class Pod:
    """One pod: started at once, and its container again whenever it ends.

    Args:
        manifest: Of the pod: metadata and spec, with its name.
        address: Its own.
        objects: ConfigMaps and Secrets by kind and name.
        directory: For what is made for it.
        hosts: The file of names, which the cluster keeps.
        netns: Its network namespace, which exists.

    Attributes:
        ready: Whether its readiness probe succeeded.
        ending: Whether it was told to end.
        restarts: How often its container was started again.
        events: What was noticed, for a failed test.
    """

    def __init__(
        self,
        manifest: Manifest,
        address: str,
        objects: dict[tuple[str, str], Manifest],
        directory: Path,
        *,
        hosts: Path,
        netns: str,
    ) -> None:
        self.name: str = manifest["metadata"]["name"]
        self.labels: dict[str, str] = manifest["metadata"]["labels"]
        self.address = address
        self.ready = self.ending = False
        self.restarts = 0
        self.events: list[str] = []
        self._spec = manifest["spec"]
        (self._container,) = self._spec["containers"]
        self._objects = objects
        self._directory = directory
        self._hosts = hosts
        self._netns = netns
        self._process: asyncio.subprocess.Process | None = None
        self._task = asyncio.create_task(self._run(), name=self.name)

    @property
    def log(self) -> str:
        """What its container wrote."""
        return (self._directory / "log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The process number that its command has on this machine."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return int(children.split()[0])

    @property
    def ended(self) -> bool:
        """Whether it has ended for good."""
        return self._task.done()

    def port(self, name: str | int) -> int:
        """Return the number of a port of its container."""
        ports = {port["name"]: port["containerPort"] for port in self._container["ports"]}
        return name if isinstance(name, int) else ports[name]

    def kill(self) -> None:
        """Kill all of its processes, as a node that runs out of memory would."""
        self.ready = False
        os.kill(self.pid, signal.SIGKILL)

    async def end(self) -> bool:
        """End it as a kubelet does; return whether it did so within the grace period."""
        self.ending = True
        hook = self._container.get("lifecycle", {}).get("preStop", {}).get("exec")
        assert self._process is not None
        try:
            async with asyncio.timeout(self._spec["terminationGracePeriodSeconds"]):
                if hook:
                    status, output = await self._execute(hook["command"])
                    assert status == 0, output
                os.kill(self.pid, signal.SIGTERM)
                await self._process.wait()
        except TimeoutError:
            self.events.append("killed after the grace period")
            self.kill()
        await self._task
        return self._process.returncode == 0

    async def discard(self) -> None:
        """End it in any state, at once."""
        self.ending = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(OSError, IndexError):
                os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(Exception):
            await self._task

    async def _run(self) -> None:
        while True:
            await self._start()
            assert self._process is not None
            probes = asyncio.create_task(self._probe())
            status = await self._process.wait()
            probes.cancel()
            self.ready = False
            self.events.append(f"ended with {status}")
            if self.ending:
                return
            await asyncio.sleep(_RESTART_S)
            if self.ending:
                return
            self.restarts += 1

    async def _start(self) -> None:
        path = self._directory / "container.json"
        path.write_text(json.dumps(self._describe()))
        start = [sys.executable, "-I", str(_CONTAINER), str(path)]
        with (self._directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", self._netns),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", *start),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _describe(self) -> Manifest:
        container, stage = self._container, image_of(self._container["image"])
        environment = {**stage.environment, "PYTHONPATH": _CLONE, "HOSTNAME": self.name}
        environment["PATH"] = environment.get("PATH", "$PATH").replace("$PATH", _PATH)
        environment |= {each["name"]: each["value"] for each in container["env"]}
        self._environment = environment
        root = self._directory / "root"
        root.mkdir(exist_ok=True)
        return {
            "root": str(root),
            "image": str(self._directory.parent / "image"),
            "files": {"/etc/passwd": _PASSWD, **_NAMES},
            "bound": {
                "/etc/hosts": str(self._hosts),
                _CLONE: str(ROOT),
                _PYTHON: sys.prefix,
                **({} if sys.base_prefix == "/usr" else {sys.base_prefix: sys.base_prefix}),
            },
            "volumes": [self._volume(each) for each in container["volumeMounts"]],
            "read_only": container["securityContext"]["readOnlyRootFilesystem"],
            "directory": stage.last("WORKDIR"),
            "command": [
                *self._as_user(),
                *(container.get("command") or json.loads(stage.last("ENTRYPOINT") or "")),
                *container.get("args", []),
            ],
            "environment": environment,
        }

    def _as_user(self) -> list[str]:
        user = self._spec["securityContext"]
        assert user["runAsNonRoot"]
        allowed = self._container["securityContext"]
        assert not allowed["allowPrivilegeEscalation"]
        assert allowed["capabilities"] == {"drop": ["ALL"]}
        numbers = [f"--reuid={user['runAsUser']}", f"--regid={user['runAsGroup']}"]
        nothing = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        return ["setpriv", *numbers, f"--groups={user['fsGroup']}", *nothing]

    def _volume(self, mount: Manifest) -> Manifest:
        """Return where a volume comes from, made as its kind says."""
        name, group = mount["name"], self._spec["securityContext"]["fsGroup"]
        (volume,) = [each for each in self._spec["volumes"] if each["name"] == name] or [{}]
        source = self._directory / "volumes" / name
        memory = volume.get("emptyDir", {}).get("medium") == "Memory"
        for kind, key in (("ConfigMap", "name"), ("Secret", "secretName")):
            reference = volume.get(kind[0].lower() + kind[1:])
            if reference is not None:
                self._write(source, self._objects[kind, reference[key]], reference, group)
        if not source.exists():
            source.mkdir(parents=True)
            os.chown(source, 0, group)
            source.chmod(0o2777)
        found = source / mount["subPath"] if "subPath" in mount else source
        return {
            "path": mount["mountPath"],
            "source": str(found),
            "memory": memory,
            "group": str(group),
            "read_only": mount.get("readOnly", False),
        }

    def _write(self, folder: Path, data: Manifest, reference: Manifest, group: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        chosen = reference.get("items") or [{"key": name, "path": name} for name in data["data"]]
        for item in chosen:
            file = folder / item["path"]
            file.write_text(data["data"][item["key"]])
            os.chown(file, 0, group)
            file.chmod(reference.get("defaultMode", 0o644))

    async def _execute(self, command: list[str]) -> tuple[int | None, str]:
        """Run a command in the container; return its status and output."""
        process = await asyncio.create_subprocess_exec(
            *("nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--root", "--wd"),
            *(*self._as_user(), *command),
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode(errors="replace")

    async def _probe(self) -> None:
        """Probe as its manifest says, in the kubelet's order."""
        # Until the container has its root, a probe would run in that of this machine.
        while not self._has_root():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
        await self._repeat("startupProbe", until=True)
        alive = asyncio.create_task(self._repeat("livenessProbe", until=False))
        try:
            while True:
                failed = await self._repeat("readinessProbe", until=True)
                self.ready = not failed and not self.ending
                await self._repeat("readinessProbe", until=False)
                self.ready = False
        finally:
            alive.cancel()

    def _has_root(self) -> bool:
        with contextlib.suppress(OSError, IndexError):
            return Path(f"/proc/{self.pid}/root").readlink() != Path("/")
        return False

    async def _repeat(self, name: str, *, until: bool) -> bool:
        """Probe until it succeeds, or until it has failed too often; return whether it has.

        A container is killed by a failed startup or liveness probe.
        """
        probe, failures = self._container[name], 0
        while failures < probe["failureThreshold"]:
            problem = await self._try(probe)
            if not problem and until:
                return False
            failures = failures + 1 if problem else 0
            if problem:
                self.events.append(f"{name}: {problem}")
            await asyncio.sleep(probe["periodSeconds"])
        if name != "readinessProbe":
            self.events.append(f"killed by its {name}")
            self.kill()
        return True

    async def _try(self, probe: Manifest) -> str:
        """Return why a probe failed; "" if it succeeded."""
        try:
            async with asyncio.timeout(probe["timeoutSeconds"]):
                if "exec" in probe:
                    status, output = await self._execute(probe["exec"]["command"])
                    return output.strip() or f"status {status}" if status else ""
                get = probe["httpGet"]
                url = f"http://{self.address}:{self.port(get['port'])}{get['path']}"
                async with httpx.AsyncClient(trust_env=False) as client:
                    status = (await client.get(url)).status_code
                    return "" if 200 <= status < 400 else f"{get['path']} answered {status}"
        except (OSError, TimeoutError, IndexError, httpx.TransportError) as error:
            return repr(error)
