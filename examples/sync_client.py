"""A session, its state, its typed errors.

Prints:

    42
    the session ended well
    usage: no restart helps
"""

from bridgehold import BridgeholdError, SyncClient

with SyncClient.open() as host, host.session("python") as session:
    session.run("execute", {"code": "answer = 6 * 7"})
    print(session.run("execute", {"code": "answer"})["value"])
    print(session.run("execute", {"code": "print('the session ended well')"})["stdout"].strip())
    try:
        session.run("execute", {"code": 42})  # the manifest says: a string
    except BridgeholdError as error:
        print(f"{error.code}: no restart helps" if error.retry == "no" else error.code)
