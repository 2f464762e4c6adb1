"""`database` steps: what they stand for, and which of them cannot be."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from buildit.commands.accounts import Ids
from buildit.commands.running import app_of, init_of
from buildit.commands.said import listed_steps
from buildit.errors import RecipeError
from buildit.model.database import ENGINES, Database, where_it_is
from buildit.model.image import App, Inherited, Port, Volume
from buildit.model.services import INIT
from buildit.recipe.container import Container, DebianPackageStep
from buildit.recipe.lists import load_container

pytestmark = pytest.mark.unit

HEAD = "- vars: {name: web, version: 1.0}\n"
OWN = "- database: {engine: postgresql, name: shop, password: pw, network: yes}\n"


def loaded(tmp_path: Path, text: str) -> Container:
    (tmp_path / "container.yaml").write_text(HEAD + text)
    return load_container(tmp_path)


def texts_of(container: Container) -> dict[str, str]:
    steps = (one.spec.texts or () for one in container.steps)
    return {one.path: one.content for texts in steps for one in texts}


def packages_of(container: Container) -> dict[str, tuple[str, ...]]:
    found = (one.spec.package for one in container.steps)
    return {one.debian: one.without for one in found if isinstance(one, DebianPackageStep)}


def test_a_database_alone_is_a_server_under_an_init(tmp_path: Path) -> None:
    found = loaded(tmp_path, OWN)
    assert {one.place.rpartition("/")[2] for one in found.steps} == {
        "container.yaml:1:3",
        "container.yaml:2:3",
    }
    app = app_of(found)
    assert app is not None
    assert (app.exec, app.user) == ((INIT,), "0")
    assert app.ports == (Port(5432, "tcp", "postgresql"),)
    assert app.volumes == (Volume("/var/lib/postgresql", "postgresql"),)
    assert app.health is not None
    assert app.health.exec == ("/usr/lib/buildit/postgresql", "ready")
    init = init_of(found, Ids())
    assert init is not None
    (service,) = init.services
    assert service.exec == ("/usr/lib/buildit/postgresql", "start")
    assert (service.stop_signal, service.ends_on, service.ends_all) == ("SIGINT", (1, 78), False)
    assert (service.uid, service.gid) == (0, 0)  # it reads the secret, then becomes its own user
    assert "postgresql-15" in packages_of(found)
    assert not [one for one in listed_steps(found) if one.kind == "database"]


def test_the_app_of_the_container_is_a_service_behind_it(tmp_path: Path) -> None:
    steps = (
        "- app: {exec: [/bin/shop], user: '5', ports: [80], volumes: [/srv], environment: {A: b}}\n"
        "- database: {engine: mariadb, name: shop}\n"
        "- env: {DATABASE_USER: other}\n- workdir: /srv\n"
    )
    found = loaded(tmp_path, steps)
    app = app_of(found)
    assert app is not None
    assert (app.exec, app.user, app.working_directory) == ((INIT,), "0", "/")
    assert app.ports == (Port(80),)
    assert app.volumes == (Volume("/srv"), Volume("/var/lib/mysql", "mariadb"))
    assert app.health is None
    assert dict(app.environment)["A"] == "b"
    assert dict(app.environment)["DATABASE_USER"] == "other"
    init = init_of(found, Ids())
    assert init is not None
    server, shop = init.services
    assert (server.name, server.stop_signal) == ("mariadb", "SIGTERM")
    assert (shop.name, shop.exec, shop.after) == ("app", ("/bin/shop",), ("mariadb",))
    assert (shop.uid, shop.gid, shop.working_directory, shop.ends_all) == (5, 5, "/srv", True)


def test_the_app_of_a_base_is_a_service_behind_it(tmp_path: Path) -> None:
    base = Inherited(App(("serve", "-x"), user="web", volumes=(Volume("/b"),)))
    found = loaded(tmp_path, "- from: {oci: 'oci:x'}\n- database: {engine: postgresql}\n")
    init, app = init_of(found, Ids(), base), app_of(found, base)
    assert init is not None
    assert app is not None
    shop = init.services[1]
    assert (shop.exec, shop.owner) == (("serve", "-x"), "web")
    assert (app.exec, app.arguments, app.user) == ((INIT,), (), "0")
    assert {one.path for one in app.volumes} == {"/b", "/var/lib/postgresql"}


def test_services_of_the_container_wait_for_it(tmp_path: Path) -> None:
    steps = (
        "- database: {engine: postgresql}\n"
        "- init: {services: {web: {exec: [/bin/web], after: [postgresql]}}}\n"
    )
    init = init_of(loaded(tmp_path, steps), Ids())
    assert init is not None
    assert [one.name for one in init.services] == ["postgresql", "web"]


@pytest.mark.parametrize(
    ("steps", "package"),
    [
        ("- database: {engine: postgresql}\n- toolchain: toolchain/debian-13\n", "postgresql-17"),
        ("- from: {suite: debian-13}\n- database: {engine: postgresql}\n", "postgresql-17"),
        ("- database: {engine: postgresql, version: 16}\n", "postgresql-16"),
        ("- database: {engine: mariadb}\n", "mariadb-server-core"),
    ],
)
def test_the_packages_are_of_the_suite(tmp_path: Path, steps: str, package: str) -> None:
    found = packages_of(loaded(tmp_path, steps))
    assert package in found
    assert {"s6", "execline"} <= found.keys()
    assert ("dash" in found) == ("suite" not in steps)


def test_a_package_that_the_container_names_is_its_own(tmp_path: Path) -> None:
    steps = "- package: {debian: postgresql-15}\n- database: {engine: postgresql}\n"
    assert packages_of(loaded(tmp_path, steps))["postgresql-15"] == ()


def test_settings_stay_what_they_are(tmp_path: Path) -> None:
    value = "it's \\\\ %m"
    step = "- database:\n    engine: {}\n    init: [a.sql]\n    settings: {{a_b: '{}'}}\n"
    written = value.replace("'", "''")
    found = texts_of(loaded(tmp_path, step.format("postgresql", written)))
    assert "a_b = 'it''s \\\\\\\\ %m'\n" in found["/etc/buildit/postgresql.conf"]
    assert "INIT='/etc/buildit/init/00-a.sql'\n" in found["/etc/buildit/database"]
    found = texts_of(loaded(tmp_path, step.format("mariadb", written)))
    assert 'a-b = "it\'s \\\\\\\\ %m"\n' in found["/etc/buildit/mariadb.cnf"]
    assert "skip-networking" in found["/etc/buildit/mariadb.cnf"]


def test_who_comes_in(tmp_path: Path) -> None:
    step = "- database: {{engine: {}, name: shop{}}}\n"
    found = texts_of(loaded(tmp_path, step.format("postgresql", ", peers: [www]")))
    assert found["/etc/buildit/pg_hba.conf"].endswith("local all all peer map=app\n")
    assert "app www shop\n" in found["/etc/buildit/pg_ident.conf"]
    assert "admin www" not in found["/etc/buildit/pg_ident.conf"]
    assert "listen_addresses = ''\n" in found["/etc/buildit/postgresql.conf"]
    found = texts_of(loaded(tmp_path, step.format("postgresql", ", password: pw")))
    assert found["/etc/buildit/pg_hba.conf"].endswith("local all all scram-sha-256\n")
    assert "listen_addresses = 'localhost'\n" in found["/etc/buildit/postgresql.conf"]
    found = texts_of(loaded(tmp_path, step.format("mariadb", ", peers: [www]")))
    assert "USERS='shop@localhost www@localhost'\n" in found["/etc/buildit/database"]
    found = texts_of(loaded(tmp_path, step.format("mariadb", ", password: pw, network: yes")))
    users = "USERS='shop@localhost shop@127.0.0.1 shop@::1 shop@%'\n"
    assert users in found["/etc/buildit/database"]
    assert "PASSWORD_FILE='/run/secrets/pw'\n" in found["/etc/buildit/database"]


def test_a_database_elsewhere_is_variables(tmp_path: Path) -> None:
    found = loaded(tmp_path, "- database: {engine: mariadb, password: pw, host: db}\n")
    assert [one.kind for one in found.steps] == ["vars", "database", "env"]
    assert found.steps[2].spec.env == {
        "DATABASE_URL": "mysql://app@db:3306/app",
        "DATABASE_HOST": "db",
        "DATABASE_PORT": "3306",
        "DATABASE_NAME": "app",
        "DATABASE_USER": "app",
        "DATABASE_PASSWORD_FILE": "/run/secrets/pw",
        "MYSQL_HOST": "db",
        "MYSQL_TCP_PORT": "3306",
    }


def test_urls_are_those_of_the_engines() -> None:
    shop = Database("postgresql", "shop", "web", "", 5433)
    # libpq, 34.1.1.2: a socket's directory is the parameter `host`
    url = "postgresql://web@/shop?host=/run/postgresql&port=5433"
    assert where_it_is(shop)["DATABASE_URL"] == url
    assert where_it_is(shop, "db")["DATABASE_URL"] == "postgresql://web@db:5433/shop"
    own = where_it_is(Database("mariadb", "shop", "web", "", 3306))
    assert own["DATABASE_URL"].endswith("?unix_socket=/run/mysqld/mysqld.sock")


@pytest.mark.parametrize(
    ("step", "message", "place"),
    [
        ("{engine: mysql}", "expected one of postgresql, mariadb; found 'mysql'", "2:22"),
        ("{engine: postgresql, network: yes}", "over the network needs a password", "2:"),
        ("{engine: postgresql, name: template1}", "is one of postgresql's own", "2:"),
        ("{engine: postgresql, user: pg_x}", "is one of postgresql's own", "2:"),
        ("{engine: mariadb, user: root}", "is one of mariadb's own", "2:"),
        ("{engine: mariadb, name: a-b}", "expected the name of a database", "2:"),
        ("{engine: mariadb, version: 10}", "MariaDB has the version of its suite", "2:"),
        ("{engine: mariadb, password: a, peers: [b]}", "`peers` come in where", "2:"),
        ("{engine: mariadb, port: 0}", "expected a port", "2:"),
        ("{engine: mariadb, host: db, init: [a.sql]}", "`init` is of a database that", "2:"),
        ("{engine: mariadb, names: a}", "names", "2:"),
    ],
)
def test_databases_that_cannot_be(tmp_path: Path, step: str, message: str, place: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        loaded(tmp_path, f"- database: {step}\n")
    assert f"container.yaml:{place}" in (caught.value.place or "")


def test_a_second_database_is_refused(tmp_path: Path) -> None:
    step = "- database: {engine: mariadb}\n"
    with pytest.raises(RecipeError, match="a container has one database") as caught:
        loaded(tmp_path, step + step)
    assert (caught.value.place or "").endswith(":3:3")


def test_a_suite_of_unknown_version_is_refused(tmp_path: Path) -> None:
    steps = "- toolchain: toolchain/mine\n- database: {engine: postgresql}\n"
    with pytest.raises(RecipeError, match="which version of PostgreSQL mine has is not known"):
        loaded(tmp_path, steps)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_scripts_are_of_any_shell(engine: str, tmp_path: Path) -> None:
    (path,) = (
        text
        for path, text in texts_of(loaded(tmp_path, f"- database: {{engine: {engine}}}\n")).items()
        if path.endswith(f"/{engine}")
    )
    for shell in filter(shutil.which, ("dash", "bash")):
        subprocess.run([shell, "-n"], input=path, text=True, check=True)
