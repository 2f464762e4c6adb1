"""What a stack has because an image of it has a database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from buildit.errors import RecipeError
from buildit.model.database import Database
from buildit.model.stack import (
    ContainerStack,
    Link,
    SecretUse,
    StackMember,
    StackMount,
    StackSecret,
    StackVolume,
    stack_environment,
)
from buildit.stack.databases import with_image_databases
from buildit.stack.pinned import PinnedImage

pytestmark = pytest.mark.unit

SHOP = Database("postgresql", "shop", "web", "pw", 5432, network=True)
IMAGES = {
    "db": PinnedImage("0" * 64, "db.tar", database=SHOP),
    "app": PinnedImage("1" * 64, "app.tar"),
}


def stack(db: StackMember | None = None, **more: object) -> ContainerStack:
    app = StackMember("app", "s.yaml:5:3", links=(Link("db", "store", "s.yaml:5:9"),))
    app = replace(app, environment=(("PGUSER", "other"), ("A", "b")))
    members = (db or StackMember("db", "s.yaml:3:3"), app)
    made = ContainerStack("shop", Path("/x"), Path("/x/stack.yaml"), members)
    return replace(made, **more)  # type: ignore[arg-type]


def test_a_database_has_a_volume_a_password_and_who_links_to_it_both_names() -> None:
    found = with_image_databases(stack(), IMAGES)
    db, app = found.members
    assert [(one.dest, one.kind, one.source) for one in db.mounts] == [
        ("/var/lib/postgresql", "volume", "db-data")
    ]
    assert db.stop_timeout == 60
    assert [one.name for one in found.volumes] == ["db-data"]
    assert [(one.name, one.kind, one.length) for one in found.secrets] == [("pw", "generated", 32)]
    assert [(one.secret, one.target, one.mode) for one in db.secrets] == [
        ("pw", "/run/secrets/pw", 0o400)
    ]
    assert [(one.secret, one.mode) for one in app.secrets] == [("pw", 0o444)]
    said = dict(stack_environment(found, app))
    assert said["DATABASE_URL"] == "postgresql://web@store:5432/shop"
    assert said["DATABASE_PASSWORD_FILE"] == "/run/secrets/pw"
    assert (said["PGHOST"], said["PGUSER"], said["A"]) == ("store", "other", "b")
    assert said["STORE_HOST"] == "store"
    assert with_image_databases(found, IMAGES) == found  # nothing is there twice


def test_what_the_stack_says_itself_counts() -> None:
    mount = StackMount("/var/lib/postgresql", "volume", "mine")
    use = SecretUse("pw", "/run/secrets/pw", 5, 5, 0o440)
    db = StackMember("db", "s.yaml:3:3", mounts=(mount,), secrets=(use,), stop_timeout=5)
    own = StackSecret("pw", "file", "/x/pw")
    given = stack(db, volumes=(StackVolume("mine"),), secrets=(own,))
    found = with_image_databases(given, IMAGES)
    assert found.members[0] == db
    assert (found.volumes, found.secrets) == (given.volumes, given.secrets)


def test_a_stack_without_one_stays_what_it_is() -> None:
    images = {name: replace(one, database=None) for name, one in IMAGES.items()}
    assert with_image_databases(stack(), images) == stack()


def test_what_cannot_be_is_told_at_its_place() -> None:
    alone = replace(SHOP, network=False)
    with pytest.raises(RecipeError, match="is for its own container alone") as caught:
        with_image_databases(stack(), {**IMAGES, "db": PinnedImage("0", database=alone)})
    assert caught.value.place == "s.yaml:5:9"
    two = StackMember("db", "s.yaml:3:3", replicas=2)
    with pytest.raises(RecipeError, match="2 replicas of 'db' would share the data") as caught:
        with_image_databases(stack(two), IMAGES)
    assert caught.value.place == "s.yaml:3:3"
