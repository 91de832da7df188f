"""A little generated SDK in the shape of Microsoft's, as files in memory and as wheels."""

import base64
import hashlib
import zipfile
from pathlib import Path

SDK = {
    "msgraph/__init__.py": "from .client import Client\n",
    "msgraph/client.py": """
from __future__ import annotations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .generated.mail import MailBuilder


class Client:
    @property
    def users(self):
        from .generated.users import UsersBuilder
        return UsersBuilder()

    @property
    def mail(self) -> MailBuilder:
        from .generated.mail import MailBuilder
        return MailBuilder()
""",
    "msgraph/generated/users.py": """
class UsersBuilder:
    async def get(self):
        from .models.user import User
        return User()

    def to_get_request_information(self):
        return "GET /users"
""",
    "msgraph/generated/mail.py": "class MailBuilder: ...\n",
    "msgraph/generated/models/user.py": "class User: ...\n",
    "msgraph/generated/errors.py": "class ODataError(Exception): ...\n",
    "kiota_core/__init__.py": "def send(request): return request.body\n",
}
APP = {
    "function_app.py": "import clients.graph\n",
    "clients/__init__.py": "",
    "clients/graph/__init__.py": """
def ask(answers):
    from msgraph.client import Client
    return Client().users.to_get_request_information(), answers.get("id")
""",
}


class Memory(dict):
    """Files in memory."""

    def read(self, path):
        return self[path].encode()


def installed(**changes):
    return Memory(SDK | changes)


def write_wheel(
    folder: Path, name: str, version: str, files: dict[str, str], tag: str = "py3-none-any"
) -> Path:
    """Write a wheel that pip takes."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    whole = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    digests = {
        path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        for path, text in whole.items()
    }
    record = "".join(f"{path},sha256={digest},{len(whole[path])}\n" for path, digest in digests.items())
    target = folder / f"{name.replace('-', '_')}-{version}-{tag}.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in {**whole, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    return target


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
