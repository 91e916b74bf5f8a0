"""noa, section 10: agents of the CSV directory, read by the command line into a registry of their own."""

import csv
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest

import rollcall
from tests.contract.noa import Face
from tests.processes import rollcall as command

COLUMNS = """
agent_name role layer scope tools inputs outputs guardrails escalation_to stack actions agent_code agent_id aka
artifacts audit_logging auto_remediation autonomy_level budget_cap cache capabilities capability_pack
capability_pack_id category code_paths commands connectors cost_center court_gate court_policy_id created_at
data_sources dependencies depends_on_agents display_name efg_requirements embedding_models endpoints epic
escalation_policy export_control failure_modes governance_role human_approval_required last_updated license_category
manifests maturity_level memory_scope metrics models operational_readiness_score operations_domain owner_role
pii_handling plane policies provides_capabilities purpose raci_a raci_c raci_i raci_r risk_class scheduler_owner
scheduling security_level sla source_file source_row_index source_rows_json spawn_policy state_store status
subcategory telemetry telemetry_topic tools_stack triggers type version health_status repair_recommendations
issues_identified
"""
HEADER = COLUMNS.split()

MULTI_LINE = 'first line,\nsecond "line"\r\nthird; line'


def written(path, rows, header=HEADER):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def imported(realm, path, *arguments, exits=0):
    done = command("import", str(path), *arguments, env={"ROLLCALL_NATS": realm["nats"]})
    assert done.returncode == exits, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def stats(report):
    return report.get("stats", report)


async def entries(realm):
    async with rollcall.connect(realm["nats"]) as registry:
        return {entry.id: entry for entry in await registry.list(exact=True)}


def known(row):
    """A row with what every agent has."""
    return {"agent_name": row.get("agent_id", ""), "layer": "micro", "health_status": "healthy", **row}


# The 302


def directory():
    """862 rows of 302 agents, as the contract counts them; only the last row of each is right."""
    ids = [f"agent {number:03}" for number in range(300)]
    last = [("", "wx YGM"), ("string", "String"), *((id, id.title()) for id in ids)]
    layers = ["board"] * 2 + ["l2", "L2", "Board", "l2"] + ["micro"] * 200 + ["L5"] * 96
    health = ["healthy"] * 200 + ["Healthy"] * 41 + ["needs repair"] * 30 + ["Needs_Repair"] * 28
    health += ["Healthy (Assumed)", "", "fine"]
    right = [
        {"agent_id": id, "agent_name": name, "layer": layer, "health_status": state, "purpose": MULTI_LINE}
        for (id, name), layer, state in zip(last, layers, health, strict=True)
    ]
    chosen = random.Random(302)
    earlier = [("", "wx YGM")] * 11 + [("string", "String")]
    earlier += [(chosen.choice(ids), "an earlier name") for _ in range(862 - 302 - 12)]
    wrong = [{"agent_id": id, "agent_name": name, "layer": "l1", "health_status": "error"} for id, name in earlier]
    chosen.shuffle(wrong)
    return wrong + right


@pytest.fixture(scope="module")
def big(csv_realm):
    """The 302, imported once."""
    path = written(csv_realm["home"] / "agents.csv", directory())
    done = imported(csv_realm, path, "--json")
    return SimpleNamespace(path=path, report=json.loads(done.stdout), done=done)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("total_agents", 302),
        ("healthy_agents", 241),
        ("needs_repair", 58),
        ("unknown_status", 3),
        ("agents_by_layer", {"L5Infrastructure": 296, "L2Reasoning": 6}),
        ("agents_by_category", {"Other": 302}),
    ],
)
def test_the_directory_counts_what_the_contract_expects(big, name, count):
    assert stats(big.report)[name] == count


async def test_the_302_are_on_the_roll(big, csv_realm):
    held = await entries(csv_realm)

    assert {f"agent {number:03}" for number in range(300)} | {"string", "wx YGM"} <= set(held)
    assert "pe-ssp" not in held


async def test_the_last_row_of_an_id_wins(big, csv_realm):
    assert (await entries(csv_realm))["agent 007"].name == "Agent 007"


async def test_imported_agents_are_defined_without_a_lease_and_owned_by_the_import(big, csv_realm):
    entry = (await entries(csv_realm))["agent 007"]

    assert (entry.status, entry.ttl) == ("defined", None)
    assert entry.owner.startswith("import:")


async def test_importing_again_changes_only_what_changed(big, csv_realm):
    before = await entries(csv_realm)
    rows = directory()
    rows[-1] = {**rows[-1], "agent_name": "Renamed"}

    report = json.loads(imported(csv_realm, written(csv_realm["home"] / "agents.csv", rows), "--json").stdout)

    assert stats(report) == stats(big.report)
    after = await entries(csv_realm)
    changed = {id for id in after if after[id].revision != before[id].revision}
    assert changed == {rows[-1]["agent_id"]}
    assert after[rows[-1]["agent_id"]].name == "Renamed"


def test_imported_agents_are_agents_of_the_dialect(big, csv_realm):
    face = Face(csv_realm["http"], csv_realm["process"], csv_realm["nats"])
    with face.http:
        agent = face.agent("agent%20007")

        assert (agent["id"], agent["name"], agent["heartbeat"]) == ("agent 007", "Agent 007", None)
        assert "agent 007" in face.ids()
        assert face.get("/analytics/health")["unhealthy_agents"] == []
        assert face.get("/analytics/health")["overall_health"] == 1


def test_the_face_of_up_wants_its_token_where_something_changes(csv_realm):
    face = Face(csv_realm["http"], csv_realm["process"], csv_realm["nats"])
    with face.http:
        path = "/agents/nobody/heartbeat"

        assert face.ask("POST", path, {}).status_code == 401
        assert face.ask("POST", path, {}, headers={"Authorization": "Bearer open-sesame"}).status_code == 404


# What one row becomes

SHAPES = [
    {"agent_id": "semicolons", "capabilities": " read; write ;;juggle with knives;"},
    {"agent_id": "literal", "capabilities": "['read', \"write; too\"]"},
    {"agent_id": "empty literal", "capabilities": "[]"},
    {"agent_id": "no literal", "capabilities": "['read; write"},
    {"agent_id": "nothing", "capabilities": " ; "},
    {"agent_id": "several lines", "capabilities": "read;\nwrite", "purpose": MULTI_LINE},
    {"agent_id": "free", "category": "My own category", "version": "1.2"},
    {"agent_id": "matched", "category": "code"},
    {"agent_id": "a\nb", "agent_name": "line break"},
    {"agent_id": "c\r\nd", "agent_name": "another line break"},
    {"agent_id": "e\tf", "agent_name": "tab"},
    {"agent_id": "mer\nged", "agent_name": "first"},
    {"agent_id": "mer ged", "agent_name": "second"},
    {"agent_id": "", "agent_name": "wx YGM"},
    {"agent_id": "string", "agent_name": "junk"},
    {"agent_id": "twice", "agent_name": "first"},
    {"agent_id": "twice", "agent_name": "second"},
    {"agent_id": "twice", "agent_name": "third"},
]


@pytest.fixture(scope="module")
def shapes(big, csv_realm):
    """Rows of all shapes, the columns in another order; what was reported."""
    path = written(
        csv_realm["home"] / "shapes.csv", [*map(known, SHAPES), RECORD_ROW, {"agent_id": "bare"}], HEADER[::-1]
    )
    return json.loads(imported(csv_realm, path, "--json", "--name", "agents").stdout)


@pytest.mark.parametrize(
    ("id", "capabilities"),
    [
        ("semicolons", ("read", "write", "juggle with knives")),
        ("literal", ("read", "write; too")),
        ("empty literal", ()),
        ("no literal", ("['read", "write")),
        ("nothing", ()),
        ("several lines", ("read", "write")),
    ],
)
async def test_a_list_is_split_on_semicolons_or_written_as_in_python(shapes, csv_realm, id, capabilities):
    assert (await entries(csv_realm))[id].capabilities == capabilities


@pytest.mark.parametrize(("id", "category"), [("free", "My own category"), ("matched", "code"), ("nothing", "")])
async def test_the_free_text_of_a_category_is_kept(shapes, csv_realm, id, category):
    assert (await entries(csv_realm))[id].category == category


async def test_the_version_is_the_version(shapes, csv_realm):
    assert (await entries(csv_realm))["free"].version == "1.2"


@pytest.mark.parametrize(
    ("id", "name"), [("a b", "line break"), ("c d", "another line break"), ("e f", "tab"), ("mer ged", "second")]
)
async def test_control_characters_of_an_id_become_one_blank(shapes, csv_realm, id, name):
    assert (await entries(csv_realm))[id].name == name


async def test_the_original_id_stays_in_the_dialect_section(shapes, csv_realm):
    assert "a\nb" in json.dumps((await entries(csv_realm))["a b"].extensions["noa"]).replace("\\n", "\n")


async def test_without_an_id_the_name_is_the_id(shapes, csv_realm):
    assert (await entries(csv_realm))["wx YGM"].name == "wx YGM"


async def test_an_id_that_looks_like_junk_is_kept(shapes, csv_realm):
    assert (await entries(csv_realm))["string"].name == "junk"


@pytest.mark.parametrize("id", ["wx YGM", "string", "mer ged", "twice"])
def test_what_is_odd_is_reported(shapes, id):
    assert id in json.dumps(shapes)


def test_a_duplicate_is_reported_once(shapes):
    assert len(re.findall('"twice"|twice\\b', json.dumps(shapes))) == 1


@pytest.mark.parametrize("id", ["free", "literal", "semicolons"])
def test_what_is_not_odd_is_not_reported(shapes, id):
    assert id not in json.dumps(shapes)


# The record of a row

RECORD_ROW = {
    "agent_id": "record",
    "agent_name": "The Record",
    "layer": "Board",
    "category": "devops",
    "type": "Master",
    "role": "keeps",
    "purpose": MULTI_LINE,
    "escalation_to": "chief",
    "stack": "core",
    "capabilities": "a; b",
    "tools": "hammer; ; nail;",
    "inputs": "['x', 'y']",
    "outputs": "z",
    "dependencies": "one; two",
    "autonomy_level": "L2",
    "health_status": "Needs Repair",
    "issues_identified": "No tests. No docs; none.",
    "repair_recommendations": "Write tests. Write docs.",
    "created_at": "2025-01-01",
    "last_updated": "2025-02-01",
    "version": "1.2",
}


@pytest.mark.parametrize(
    ("field", "value"),
    {
        "layer": "L2Reasoning",
        "category": "DevOps",
        "agent_type": "Master",
        "health_status": "NeedsRepair",
        "role": "keeps",
        "purpose": MULTI_LINE,
        "escalation_to": "chief",
        "stack": "core",
        "tools": ["hammer", "nail"],
        "inputs": ["x", "y"],
        "outputs": ["z"],
        "dependencies": ["one", "two"],
        "autonomy_level": "L2",
        "issues_identified": ["No tests", "No docs; none"],
        "repair_recommendations": ["Write tests", "Write docs"],
        "created_at": "2025-01-01",
        "last_updated": "2025-02-01",
    }.items(),
)
async def test_a_row_becomes_a_record_in_the_dialect_section(shapes, csv_realm, field, value):
    assert (await entries(csv_realm))["record"].extensions["noa"][field] == value


@pytest.mark.parametrize(
    ("field", "value"),
    {
        "layer": "L4Operations",
        "category": "Other",
        "agent_type": "Worker",
        "language": "Rust",
        "state": "Created",
        "health_status": "Unknown",
        "cpu_min": "1",
        "ram_min": "1GB",
        "disk_min": "500MB",
        "autonomy_level": "tbd",
        "disposable": False,
    }.items(),
)
async def test_what_a_row_does_not_say_has_its_default(shapes, csv_realm, field, value):
    assert (await entries(csv_realm))["bare"].extensions["noa"][field] == value


# Words

LAYERS = {
    "L1Autonomy": ["executive", "l1", "L1", "Executive"],
    "L2Reasoning": ["board", "l2", "BOARD"],
    "L3Orchestration": ["stack-chief", "stack_chief", "l3", "Stack-Chief", "L3", "STACK_CHIEF"],
    "L4Operations": ["specialist", "l4", "", "anything", "l6", "Specialist", "L4Operations"],
    "L5Infrastructure": ["micro", "l5"],
}
HEALTH = {
    "healthy_agents": ["healthy", "Healthy", "HEALTHY"],
    "needs_repair": ["needs repair", "needs_repair", "Needs Repair", "error", "ERROR"],
    "unknown_status": ["", "Healthy (Assumed)", "fine", "unknown", "needs-repair"],
    None: ["degraded", "Degraded"],
}
CATEGORY_NAMES = """
Analysis Code DevOps Testing Documentation Security Governance Operations Research BuildSystems UX Plugins
ModelSelection Orchestration
"""
CATEGORIES = CATEGORY_NAMES.split()


def _worded():
    """Rows that differ in one word each."""
    cells = [{"layer": word} for words in LAYERS.values() for word in words]
    cells += [{"health_status": word} for words in HEALTH.values() for word in words]
    cells += [{"category": word} for name in CATEGORIES for word in (name, name.lower(), name.upper())]
    cells += [{"category": word} for word in ("Code Analysis", "")]
    rows = [known({"agent_id": f"word {number}", **cell}) for number, cell in enumerate(cells)]
    return rows, Counter(key for cell in cells for key in cell)


ODD_LINES = [
    {"agent_id": "one", "purpose": "two\nlines"},
    {"agent_id": "", "agent_name": "nameless"},
    {"agent_id": "string"},
    {"agent_id": "x" * 200, "agent_name": "beyond the limit"},
]

EMPTY = {"no byte": b"", "no row": ",".join(HEADER).encode() + b"\r\n"}
WRONG = {
    "no UTF-8": b"agent_id,agent_name\r\nbroken-01,One\r\nbroken-02,\xff\xfe\r\n",
    "a column twice": b"agent_id,agent_id\r\nbroken-41,broken-42\r\n",
    "no such columns": b"some,other,columns\r\nbroken-11,broken-12,broken-13\r\n",
    "an open quote": b'agent_id,agent_name\r\nbroken-21,One\r\nbroken-22,"Two\r\n',
    "somebody else's id": b"agent_id,agent_name\r\nbroken-31,One\r\nsomebody,Two\r\n",
}


@pytest.fixture(scope="module")
def runs(csv_realm):
    """Many files, each tried once: what the command said, by the name of the file."""
    home = csv_realm["home"]
    dry = ["--dry-run", "--json"]
    rows, cells = _worded()
    files = [
        (written(home / "words.csv", rows), dry),
        (written(home / "odd.csv", [known(row) for row in ODD_LINES]), [*dry, "--name", "agents"]),
        (written(home / "built-in.csv", [known({"agent_id": "one"})]), [*dry, "--built-in"]),
        *((_file(home, name, content), dry) for name, content in EMPTY.items()),
        *((_file(home, name, content), []) for name, content in WRONG.items()),
        (home / "nowhere.csv", []),
    ]
    tries = [["import", str(file), *options] for file, options in files]
    somebody = ["register", "--role", "worker", "--id", "somebody", "--ttl", "none"]
    registered, *done = _many(csv_realm, [somebody, *tries])
    assert registered.returncode == 0, registered.stderr
    said = {file.stem: one for (file, _), one in zip(files, done, strict=True)}
    return SimpleNamespace(said=said, cells=cells)


ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys, traceback
from rollcall.faces.cli.app import main

done = []
for words in json.load(sys.stdin):
    sys.argv = ["rollcall", *words]
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            code = 1
            traceback.print_exc()
    done.append({"returncode": code, "stdout": out.getvalue(), "stderr": err.getvalue()})
print(json.dumps(done))
"""
"""Several commands in one process: most of a command is its start."""


def _many(realm, commands):
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "ROLLCALL_NATS": realm["nats"], "COLUMNS": "80"},
    )
    return [SimpleNamespace(**one) for one in json.loads(done.stdout)]


def _file(home, name, content):
    path = home / f"{name}.csv"
    path.write_bytes(content)
    return path


def report(runs, name):
    done = runs.said[name]
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def words(runs):
    """The counts of rows that differ in one word each."""
    return stats(report(runs, "words")), runs.cells


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_has_several_names(words, layer):
    counts, cells = words
    others = cells["health_status"] + cells["category"] if layer == "L5Infrastructure" else 0

    assert counts["agents_by_layer"][layer] == len(LAYERS[layer]) + others


@pytest.mark.parametrize("state", [state for state in HEALTH if state])
def test_a_state_of_health_has_several_names(words, state):
    counts, cells = words
    others = cells["layer"] + cells["category"] if state == "healthy_agents" else 0

    assert counts[state] == len(HEALTH[state]) + others


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_category_is_matched_whatever_its_case(words, category):
    assert words[0]["agents_by_category"][category] == 3


def test_any_other_category_is_other(words):
    counts, cells = words

    assert counts["agents_by_category"]["Other"] == 2 + cells["layer"] + cells["health_status"]


# The whole file


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_file_holds_nobody_and_is_no_error(runs, name):
    assert stats(report(runs, name))["total_agents"] == 0


def test_the_built_in_agent_comes_only_when_asked_for(runs):
    assert stats(report(runs, "built-in"))["total_agents"] == 2


async def test_a_dry_run_counts_and_changes_nothing(runs, csv_realm):
    assert stats(report(runs, "words"))["total_agents"] == len(_worded()[0])
    assert not [id for id in await entries(csv_realm) if id.startswith("word ")]


@pytest.mark.parametrize(("id", "line"), [("nameless", 4), ("string", 5), ("xxxxx", 6)])
def test_what_is_odd_is_reported_with_its_line(runs, id, line):
    assert line in numbers_beside(report(runs, "odd"), id)


def test_a_row_whose_id_is_beyond_the_limit_is_left_out(runs):
    assert stats(report(runs, "odd"))["total_agents"] == len(ODD_LINES) - 1


def numbers_beside(report, text):
    """The numbers in the innermost objects or texts of a report that name `text`."""
    match report:
        case dict():
            inner = [numbers_beside(value, text) for value in report.values()]
            own = str(report.values()) if any(isinstance(v, str) and text in v for v in report.values()) else ""
        case list():
            inner, own = [numbers_beside(value, text) for value in report], ""
        case str():
            inner, own = [], report if text in report else ""
        case _:
            inner, own = [], ""
    return set().union(*inner) | {int(number) for number in re.findall(r"\b\d+\b", own)}


@pytest.mark.parametrize("name", WRONG)
async def test_of_a_file_that_is_wrong_nobody_is_imported(runs, csv_realm, name):
    assert runs.said[name].returncode != 0
    assert "Traceback" not in runs.said[name].stderr
    assert f"broken-{list(WRONG).index(name)}1" not in await entries(csv_realm)


def test_a_file_that_is_not_there_is_one_clear_line(runs):
    done = runs.said["nowhere"]

    assert done.returncode != 0
    assert "nowhere.csv" in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr


# Export


@pytest.fixture(scope="module")
def exports(shapes, csv_realm):
    """Both forms, each in a file."""
    home = csv_realm["home"]
    for done in _many(csv_realm, [["export", f"--{form}", str(home / f"export.{form}")] for form in ("json", "csv")]):
        assert done.returncode == 0, done.stderr
    return home


async def test_an_export_as_json_names_everyone(exports, csv_realm):
    held = json.loads((exports / "export.json").read_text())

    assert {agent["id"] for agent in held} == set(await entries(csv_realm))


async def test_an_export_as_csv_says_what_was_imported(exports, csv_realm):
    with (exports / "export.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = {row["agent_id"]: row for row in reader}

    assert reader.fieldnames == HEADER
    assert {key: rows["record"][key] for key in RECORD_ROW} == RECORD_ROW
    assert len(rows) == len(await entries(csv_realm))
