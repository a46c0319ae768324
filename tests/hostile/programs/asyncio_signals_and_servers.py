import asyncio, os, signal

async def echo(reader, writer):
    writer.write((await reader.readline())[::-1])
    await writer.drain()
    writer.close()

async def main():
    loop = asyncio.get_running_loop()
    got = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, got.set)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(got.wait(), 60)
    print("a signal came")
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        print(await reader.read())
        writer.close()
    server = await asyncio.start_unix_server(echo, "echo.sock")
    async with server:
        reader, writer = await asyncio.open_unix_connection("echo.sock")
        writer.write(b"by name\n")
        print(await reader.read())
        writer.close()
    print(await loop.getaddrinfo("localhost", 80, family=2, type=1))
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled")
    async def fails():
        raise ValueError("of a task")
    results = await asyncio.gather(fails(), asyncio.sleep(0, 5), return_exceptions=True)
    print(results)
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0.01)

asyncio.run(main(), debug=False)
