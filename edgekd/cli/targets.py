"""`edgekd targets`: profiles of devices, shipped, checked or probed."""

from __future__ import annotations

import re

import click

from edgekd._version import __version__
from edgekd.cli.printing import echo, print_json
from edgekd.core.errors import UsageError

_PROBER = f"edgekd {__version__}"


@click.group()
def targets() -> None:
    """Profiles of the devices that edgekd knows."""


@targets.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def targets_list(as_json: bool) -> None:
    """The shipped profiles, and this machine."""
    from edgekd.cli import show
    from edgekd.hardware.profile import load_profile, target_names

    profiles = [load_profile(name) for name in target_names()]
    if as_json:
        print_json({"targets": [profile.as_dict() for profile in profiles]})
    else:
        echo(show.targets(profiles))


@targets.command("show")
@click.argument("name")
@click.option("--yaml", "as_yaml", is_flag=True, help="As a file to edit.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def targets_show(name: str, as_yaml: bool, as_json: bool) -> None:
    """One profile, whole."""
    from edgekd.cli import show
    from edgekd.hardware.profile import load_profile, profile_text

    profile = load_profile(name)
    if as_json:
        print_json(profile.as_dict())
    else:
        echo(profile_text(name) if as_yaml else show.profile(profile), nl=not as_yaml)


@targets.command("check")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def targets_check(file: str, as_json: bool) -> None:
    """Check a profile that you edited."""
    from edgekd.hardware.profile import load_profile

    profile = load_profile(file)
    if as_json:
        print_json({"target": profile.name, "valid": True})
    else:
        echo(f"{file}: a valid profile for {profile.title} ({profile.name})")


@targets.command("probe")
@click.option("--device", default="local", show_default=True, metavar="DEVICE", help="local, or ssh://user@host:port.")
@click.option("--name", help="The profile's name.  [default: local, or the board's host name]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def targets_probe(device: str, name: str | None, as_json: bool) -> None:
    """Write a profile of a machine: `edgekd targets probe > mine.yaml`."""
    from edgekd.core.results import this_host
    from edgekd.hardware.probing import probed_profile, probed_text
    from edgekd.onboard import machine

    if device == "local":
        facts = machine.identity() | {"ort_version": this_host().ort_version}
        made = probed_profile(facts, name=name or "local", title="this machine", how=f"here by {_PROBER}")
    elif device.startswith("ssh://"):
        from edgekd.devices.ssh import Ssh

        board = Ssh.at(device)
        facts = board.identity()
        made = probed_profile(facts, name=name or _slug(board.host), title=facts["cpu"], how=f"over ssh by {_PROBER}")
    else:
        raise UsageError(f"there is no device {device!r} to probe", fix="give local, or ssh://user@host:port")
    if as_json:
        print_json(made)
    else:
        echo(probed_text(made, facts), nl=False)


def _slug(host: str) -> str:
    """A host's name as profiles are named."""
    return re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-")[:63] or "board"
