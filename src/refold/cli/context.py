"""Finding the application that ``--app`` names."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from operator import attrgetter
from typing import TYPE_CHECKING

from refold.errors import ConfigurationError, RefoldError

if TYPE_CHECKING:
    from refold.app import App

__all__ = ["Context"]


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """What the options before the command said.

    Attributes:
        app: ``module:attribute``; None if not given.
        verbose: whether everything is logged.
    """

    app: str | None
    verbose: bool = False

    def load(self) -> App:
        """The application.

        Raises:
            ConfigurationError: none was named, or it cannot be imported; says why.
        """
        from refold.app import App

        if not self.app:
            raise ConfigurationError("say which app: refold --app module:attribute … (or set REFOLD_APP)")
        module_name, colon, attribute = self.app.partition(":")
        if not (module_name and colon and attribute):
            raise ConfigurationError(f"--app {self.app!r} is not module:attribute, as in shop.projections:app")
        if "" not in sys.path:
            sys.path.insert(0, "")  # modules of the folder one is in, as `python -m` finds them
        try:
            found: object = importlib.import_module(module_name)
        except RefoldError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigurationError(
                f"--app {self.app!r}: {module_name} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        try:
            found = attrgetter(attribute)(found)
        except AttributeError as error:
            raise ConfigurationError(f"--app {self.app!r}: {module_name} has no attribute {attribute!r}") from error
        except Exception as error:
            raise ConfigurationError(
                f"--app {self.app!r}: {attribute} cannot be had: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, App):
            raise ConfigurationError(f"--app {self.app!r} is {type(found).__name__}, not a refold App")
        return found
