"""A certificate authority for tests, made by the openssl program."""

import shutil
import subprocess
from pathlib import Path

OPENSSL = shutil.which("openssl")

_EXTENSIONS = "subjectAltName=IP:127.0.0.1,DNS:localhost\n"


class Authority:
    """Signs certificates into a directory; its own is `ca.pem`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.file = directory / "ca.pem"
        self._extensions = directory / "extensions"
        self._extensions.write_text(_EXTENSIONS)
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        self._new_key = new_key
        self.run("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=CA")

    def sign(self, name: str, *, days: int = 2) -> tuple[Path, Path]:
        """Return a new certificate and its key; with negative days it has expired."""
        self.run(
            "req", *self._new_key, "-keyout", f"{name}.key", "-out", "csr", "-subj", f"/CN={name}"
        )
        self.run(
            "x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", str(days), "-extfile", "extensions", "-out", f"{name}.pem",
        )  # fmt: skip
        return self._directory / f"{name}.pem", self._directory / f"{name}.key"

    def run(self, *arguments: str) -> None:
        """Run openssl in the directory."""
        assert OPENSSL is not None
        done = subprocess.run(
            [OPENSSL, *arguments],
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
