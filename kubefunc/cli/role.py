"""``kubefunc role``: the permissions, for the people who run the cluster."""

from __future__ import annotations

import click

from kubefunc.cli.place import json_option
from kubefunc.cli.shown import print_json
from kubefunc.role import Subject, role_objects, role_yaml


@click.command()
@click.option("-n", "--namespace", default="", help="The namespace that the objects name. Default: none.")
@click.option("--user", help="Also print a RoleBinding for this user.")
@click.option("--group", help="Also print a RoleBinding for this group.")
@click.option("--service-account", help="Also print a RoleBinding for this ServiceAccount: NAME or NAMESPACE/NAME.")
@json_option
def role(
    *, namespace: str, user: str | None, group: str | None, service_account: str | None, json_wanted: bool
) -> None:
    """Print the Role that kubefunc needs, as YAML. No cluster is asked.

    \b
    kubefunc role -n team --user ada | kubectl apply -f -
    """
    subject = _subject(namespace, user, group, service_account)
    if json_wanted:
        print_json(role_objects(namespace, subject))
    else:
        click.echo(role_yaml(namespace, subject), nl=False)


def _subject(namespace: str, user: str | None, group: str | None, service_account: str | None) -> Subject | None:
    if sum(name is not None for name in (user, group, service_account)) > 1:
        raise click.UsageError("Give one of --user, --group and --service-account.")
    if user is not None:
        return Subject("User", user)
    if group is not None:
        return Subject("Group", group)
    if service_account is None:
        return None
    place, _, name = service_account.rpartition("/")
    place = place or namespace
    if not place:
        raise click.UsageError("A ServiceAccount is in a namespace: give -n, or --service-account NAMESPACE/NAME.")
    return Subject("ServiceAccount", name, place)
