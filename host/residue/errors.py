"""The exception tree of residue.

::

    ResidueError
     +- KeyFileError            key file missing, truncated, of another version
     |   +- WrongPassphrase
     +- InvalidKey              size, parity, n != p * q
     +- InvalidCiphertext       out of range, not coprime to n, malformed bytes
     +- KeyMismatch             ciphertexts or keys of different key pairs meet
     +- EncodingError           NaN, infinity, unsupported dtype
     |   +- EncodingOverflow    a number does not fit the plaintext space
     +- BackendError            a backend was misused or cannot do what is asked
     |   +- DeviceError         a device failed
     |       +- DeviceTimeout   it stopped answering
     |       +- CommandFailed   it completed a command with an error status
     |       +- CorruptResult   a checked result was wrong
     +- ProfileError            a profile cannot be taken or read
 +- CompareError            devices cannot be compared, or a file of prices is wrong
     +- FederatedError          everything residue_federated raises derives from this

Warnings: `InsecureKeyWarning`, a key below 2048 bits was made.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "CommandFailed",
    "CompareError",
    "CorruptResult",
    "DeviceError",
    "DeviceTimeout",
    "EncodingError",
    "EncodingOverflow",
    "FederatedError",
    "InsecureKeyWarning",
    "InvalidCiphertext",
    "InvalidKey",
    "KeyFileError",
    "KeyMismatch",
    "ProfileError",
    "ResidueError",
    "WrongPassphrase",
]


class ResidueError(Exception):
    """Root of every error this project raises on purpose."""


class KeyFileError(ResidueError):
    """A key file is missing, truncated, malformed or of an unknown version."""


class WrongPassphrase(KeyFileError):
    """The passphrase does not open the key file."""


class InvalidKey(ResidueError):
    """Key material fails its checks: size, parity, n = p * q."""


class InvalidCiphertext(ResidueError):
    """A ciphertext is out of range, not coprime to n, or malformed."""


class KeyMismatch(ResidueError):
    """Ciphertexts or keys of different key pairs were combined."""


class EncodingError(ResidueError):
    """A plaintext cannot be encoded: NaN, infinity, unsupported dtype."""


class EncodingOverflow(EncodingError):
    """A number, or the result of an operation, does not fit the plaintext space."""


class BackendError(ResidueError):
    """A backend was misused or cannot do what is asked."""


class DeviceError(BackendError):
    """A device failed."""


class DeviceTimeout(DeviceError):
    """A device stopped answering."""


class CommandFailed(DeviceError):
    """A device completed a command with an error status."""


class CorruptResult(DeviceError):
    """A checked result of a device was wrong."""


class ProfileError(ResidueError):
    """A profile cannot be taken or read."""


class CompareError(ResidueError):
    """Devices cannot be compared, or a file of prices is wrong."""


class FederatedError(ResidueError):
    """Root of the errors of residue_federated."""


class InsecureKeyWarning(UserWarning):
    """A key below 2048 bits was made: fit for comparisons with published tables only."""
