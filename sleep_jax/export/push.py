"""Pushes an exported folder to the Hugging Face Hub, in one commit."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KEPT = ".gitattributes"  # the Hub's own
TOKENS = "https://huggingface.co/settings/tokens"


@dataclasses.dataclass(frozen=True)
class Repository:
    """A repository of models on the Hub that a token may write to, as far as is known before.

    Attributes:
      name: `owner/model`.
      is_new: it does not exist yet.
      api: the client.
    """

    name: str
    is_new: bool
    api: "HfApi"

    @classmethod
    def find(cls, name: str) -> "Repository":
        """The repository of a name, without creating it.

        Args:
          name: `owner/model`, or `model` for one of the token's owner.

        Raises:
          FileNotFoundError: huggingface_hub is not installed.
          ValueError: the name is malformed.
          PermissionError: there is no token, or it may not write.
          ConnectionError: the Hub cannot be reached.
        """
        try:
            import huggingface_hub
            from huggingface_hub.utils import validate_repo_id
        except ImportError as error:
            raise FileNotFoundError(
                f"--push={name!r} needs `pip install huggingface_hub` (the extra `hf`)"
            ) from error
        try:
            validate_repo_id(name)
        except ValueError as error:
            raise ValueError(
                f"--push={name!r} is no name on the Hub; give `model` or `owner/model`, of "
                "letters, digits, -, _ and ., 96 at most"
            ) from error
        if huggingface_hub.get_token() is None:
            raise PermissionError(
                f"--push={name!r} needs a token of Hugging Face; run `hf auth login`, or set "
                f"HF_TOKEN to one from {TOKENS} that may write"
            )
        api = huggingface_hub.HfApi(library_name="sleep_jax")
        with hub_errors_in_words(name):
            account = api.whoami()
            if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
                raise PermissionError(
                    f"--push={name!r}: the token of {account['name']} may only read; set HF_TOKEN "
                    f"to one from {TOKENS} that may write"
                )
            full = name if "/" in name else f"{account['name']}/{name}"
            return cls(full, not api.repo_exists(full), api)

    def push(self, folder: pathlib.Path, message: str, is_public: bool) -> tuple[str, str]:
        """Makes the repository hold the files of a folder and no others, by one more commit.

        Args:
          folder: what is pushed.
          message: of the commit.
          is_public: whether all may see the repository if it is new; an old one stays as it is.

        Returns:
          The address of the repository, and the commit.

        Raises:
          PermissionError: the token may not write there.
          ConnectionError: the Hub cannot be reached, or did not take it.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        added = {path.relative_to(folder).as_posix(): path for path in paths}
        with hub_errors_in_words(self.name):
            address = self.api.create_repo(self.name, private=not is_public, exist_ok=True)
            stale = {*self.api.list_repo_files(self.name)} - {KEPT, *added}
            operations = [CommitOperationDelete(name) for name in sorted(stale)]
            operations += [CommitOperationAdd(name, path) for name, path in added.items()]
            commit = self.api.create_commit(self.name, operations, commit_message=message)
        return str(address), commit.oid


@contextlib.contextmanager
def hub_errors_in_words(name: str) -> Iterator[None]:
    """Raises what goes wrong at the Hub meanwhile as an error that says what to do."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except PermissionError:
        raise
    except (HTTPError, OSError) as error:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = lines[0] if lines else type(error).__name__
        if status == 401:
            raise PermissionError(
                f"--push={name!r}: the Hub does not accept the token ({said}); run "
                f"`hf auth login --force`, or set HF_TOKEN to one from {TOKENS}"
            ) from error
        if status == 403:
            raise PermissionError(
                f"--push={name!r}: the token may not write there ({said}); set HF_TOKEN to one "
                f"from {TOKENS} that may, or give another name"
            ) from error
        raise ConnectionError(
            f"--push={name!r}: the Hub did not take it ({said}); try the same command again when "
            f"{'there is a network' if status is None else 'the Hub answers'}"
        ) from error
