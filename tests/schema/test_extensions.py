"""A database without an extension: its columns are left out, and come with it."""

import json
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from pipelines.warehouse import embedded
from pipelines.warehouse.database import Warehouse
from tests.forum import post, user
from tests.library import shown
from tests.toy_project import TOY

LOAD = """
import json, sys
from sqlalchemy import make_url
from pipelines import project
from pipelines.lineage import rebuild
from pipelines.schema import extensions
from pipelines.schema import migrate
from pipelines.warehouse.database import Warehouse
from tests import toy_project
from tests.library import Recorder

url, body = sys.argv[1:]
warehouse = Warehouse(make_url(url))
if warehouse.database in warehouse.databases():
    print(migrate.migrate(warehouse, project.objects()))
else:
    warehouse.create_database(warehouse.database)
    toy_project.create_tables(warehouse)
print(*extensions.left_out())
recorder = Recorder(warehouse, project.sources()["toy/mail"])
recorder.land("a", json.loads(body))
recorder.transform()
print(all(table["same"] for table in rebuild.check(warehouse, "toy")))
"""


@pytest.mark.long("a server of its own, and two processes")
@pytest.mark.usefixtures("toy")
def test_columns_of_an_extension_are_left_out_until_a_superuser_creates_it(tmp_path: Path) -> None:
    body = json.dumps({"users": [user(1, "ann")], "posts": [post(1, 1, 1, embedding=[1, 2, 3])]})
    with embedded.running(tmp_path) as url:
        with psycopg.connect(url, autocommit=True) as server:
            server.execute("create role plain login createdb createrole")
        plain = make_url(url).set(username="plain", database="toys")

        def load() -> list[str]:
            arguments = [sys.executable, "-c", LOAD, plain.render_as_string(False), body]
            done = subprocess.run(arguments, cwd=TOY, capture_output=True, text=True, check=True)
            return done.stdout.splitlines()

        notice, same = load()
        assert notice == (
            "The database lacks the extension vector, so it has no toy.posts.embedding. A superuser can create it "
            "where the server has it: create extension vector. Then run: atlas db migrate"
        )
        assert same == "True"
        warehouse = Warehouse(plain)
        assert shown(warehouse, "select number from toy.posts") == [1]
        with psycopg.connect(url, dbname="toys", autocommit=True) as server:
            server.execute("create extension vector")
        assert load() == ["['toy.posts.embedding']", "", "True"]
        assert shown(warehouse, "select embedding::text from toy.posts") == ["[1,2,3]"]
        warehouse.close()
