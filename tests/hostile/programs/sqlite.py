import sqlite3, threading, datetime, os

connection = sqlite3.connect("data.db", detect_types=sqlite3.PARSE_DECLTYPES)
connection.executescript("""
PRAGMA journal_mode = WAL;
CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT UNIQUE, born date);
CREATE INDEX by_born ON people(born);
""")
with connection:
    connection.executemany("INSERT INTO people(name, born) VALUES (?, ?)", [("Ada", datetime.date(1815, 12, 10)), ("Émilie", datetime.date(1706, 12, 17))])
connection.row_factory = sqlite3.Row
for row in connection.execute("SELECT *, julianday(born) AS day FROM people ORDER BY born"):
    print(dict(row))
try:
    with connection:
        connection.execute("INSERT INTO people(name) VALUES ('Ada')")
except sqlite3.IntegrityError as error:
    print(error)
connection.create_function("backwards", 1, lambda text: text[::-1], deterministic=True)
print(connection.execute("SELECT backwards(name) FROM people WHERE id = 1").fetchone()[0])
def other():
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError as error:
        print(str(error).split(".")[0])
    mine = sqlite3.connect("data.db", timeout=30)
    with mine:
        mine.execute("INSERT INTO people(name) VALUES ('of a thread')")
    mine.close()
thread = threading.Thread(target=other)
thread.start()
thread.join()
print(connection.execute("SELECT count(*) FROM people").fetchone()[0], sorted(name for name in os.listdir(".") if "data" in name))
memory = sqlite3.connect(":memory:")
connection.backup(memory)
print(memory.execute("SELECT group_concat(name) FROM people").fetchone())
print(list(memory.iterdump())[:2])
try:
    print(memory.execute("SELECT json_extract('{\"a\": [1, 2]}', '$.a[1]')").fetchone())
    memory.execute("CREATE VIRTUAL TABLE words USING fts5(text)")
    memory.execute("INSERT INTO words VALUES ('the quick brown fox')")
    print(memory.execute("SELECT * FROM words WHERE words MATCH 'quick'").fetchone())
except sqlite3.OperationalError as error:
    print(error)
connection.close()
