import asyncio, sys

async def shout(text):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; print(sys.stdin.read().upper(), end=''); sys.exit(3)",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(text.encode())
    return out.decode(), process.returncode

async def lines():
    process = await asyncio.create_subprocess_shell(
        "for n in 1 2 3; do echo $n; done; echo gone >&2", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    found = [line async for line in process.stdout]
    return found, await process.stderr.read(), await process.wait()

async def slow():
    process = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        await asyncio.wait_for(process.wait(), 0.2)
    except asyncio.TimeoutError:
        process.terminate()
        return await process.wait()

async def main():
    print(await asyncio.gather(shout("one"), shout("two")))
    print(await lines())
    print("terminated:", await slow())
    try:
        await asyncio.create_subprocess_exec("no-such-program")
    except FileNotFoundError as error:
        print(error)
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(print, "from a thread"))

asyncio.run(main())
