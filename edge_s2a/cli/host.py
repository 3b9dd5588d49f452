"""Refuses commands that need the workstation's packages where these are not installed."""

from edge_s2a.errors import UserError


def require_host() -> None:
    """Raises UserError that names the extra to install."""
    try:
        import onnx  # noqa: F401
        import timm  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"this command runs on a workstation and needs {error.name}; install it with: pip install 'edge-s2a[host]'"
        ) from error
