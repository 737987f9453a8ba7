"""A run's database as `insert` statements, for a database that the migrations have made: tests/fixtures/run.sql.

    python3 tests/python/dump_run.py runs/sample/orchestrator.sqlite > tests/fixtures/run.sql

Folders that were written out in full are shortened to the run's own.
"""

import sqlite3
import sys

# What others refer to first. Kept solutions come before the trajectories that replay them.
TABLES = """run problem weight_version round round_problem step step_slot tree solution node node_content trajectory
trajectory_node metric evaluation evaluation_problem retention""".split()


def literal(value, column):
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, str):
        if column == "path":
            value = "runs/sample/run-" + value.split("/run-", 1)[1]
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def main():
    connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
    print("-- A real run, made by tests/python/dump_run.py. Foreign keys are to be off while it is read.")
    for table in TABLES:
        cursor = connection.execute(f"select * from {table} order by 1, 2, 3")
        columns = [column[0] for column in cursor.description]
        rows = ["(" + ", ".join(map(literal, row, columns)) + ")" for row in cursor]
        if rows:
            print(f"insert into {table} ({', '.join(columns)}) values\n" + ",\n".join(rows) + ";")


main()
