# A worker of a pool as Elixir holds one: a Port with {:packet, 4}, ids, a handshake with a deadline.
#
#   elixir port_client.exs stdio | script | hold EXECUTABLE [ARGUMENT ...]
#
# Each step is a line on stdout; a step that goes wrong ends it with status 1 and says which.

defmodule PortWorker do
  @handshake_ms 10_000
  @call_ms 20_000

  defstruct [:port, :os_pid]

  def open(executable, arguments) do
    options = [:binary, :exit_status, :use_stdio, {:packet, 4}, {:args, arguments}]
    port = Port.open({:spawn_executable, executable}, options)
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    worker = %PortWorker{port: port, os_pid: os_pid}
    arguments = %{initialization: true, worker_id: "worker_1_5"}
    send_request(worker, 0, "ping", arguments)
    %{"success" => true, "result" => %{"status" => "ok"} = result} = receive_answer(worker, 0, @handshake_ms)
    {worker, result}
  end

  def call(worker, id, command, arguments \\ %{}) do
    send_request(worker, id, command, arguments)
    receive_answer(worker, id, @call_ms)
  end

  def send_request(worker, id, command, arguments) do
    timestamp = DateTime.to_iso8601(DateTime.utc_now())
    request = %{id: id, command: command, args: arguments, timestamp: timestamp}
    true = Port.command(worker.port, :jiffy.encode(request))
  end

  def receive_answer(%PortWorker{port: port}, id, milliseconds) do
    receive do
      {^port, {:data, body}} ->
        %{"id" => ^id, "timestamp" => _} = :jiffy.decode(body, [:return_maps])

      {^port, {:exit_status, status}} ->
        raise "the worker exited with #{status}, and #{id} was not answered"
    after
      milliseconds -> raise "no answer to #{id} within #{milliseconds} ms"
    end
  end

  def receive_exit(%PortWorker{port: port}) do
    receive do
      {^port, {:exit_status, status}} -> status
    after
      @call_ms -> raise "the worker did not exit"
    end
  end
end

defmodule Conversation do
  def step(name, facts \\ %{}), do: IO.puts(:jiffy.encode(Map.put(facts, :step, name)))

  def run("stdio", executable, arguments) do
    {worker, ping} = PortWorker.open(executable, arguments)
    %{"mode" => "pool-worker", "worker_id" => "worker_1_5", "session" => session} = ping
    step("handshake", %{session: session, pid: worker.os_pid})

    %{"success" => true, "result" => %{"value" => "grüße 🎈"}} =
      PortWorker.call(worker, 1, "execute", %{code: "x = 'grüße 🎈'\nprint('noise')\nx"})

    %{"success" => true, "result" => %{"value" => 8}} = PortWorker.call(worker, 2, "execute", %{code: "len(x) + 1"})
    step("commands")
    %{"success" => false, "error" => "application: ZeroDivisionError" <> _} =
      PortWorker.call(worker, 3, "execute", %{code: "1/0"})

    %{"success" => false, "error" => "denied: " <> _} = PortWorker.call(worker, 4, "no_such_command")
    %{"success" => true} = PortWorker.call(worker, 5, "get_stats")
    step("errors")
    PortWorker.send_request(worker, 6, "execute", %{code: "import time; time.sleep(1); 6"})
    PortWorker.send_request(worker, 7, "ping", %{})
    %{"success" => true} = PortWorker.receive_answer(worker, 7, 5_000)
    %{"result" => %{"value" => 6}} = PortWorker.receive_answer(worker, 6, 5_000)
    step("two in flight")
    long = String.duplicate("é", 200_000)
    code = %{code: "'" <> long <> "'[:3]"}
    %{"result" => %{"value" => "ééé"}} = PortWorker.call(worker, 8, "execute", code)
    step("a long frame")
    true = Port.close(worker.port)
    step("closed")
    {worker, ping} = PortWorker.open(executable, arguments)
    step("handshake", %{session: ping["session"], pid: worker.os_pid})
    %{"success" => true} = PortWorker.call(worker, 1, "shutdown")
    0 = PortWorker.receive_exit(worker)
    step("shut down")
  end

  def run("script", executable, arguments) do
    {worker, ping} = PortWorker.open(executable, arguments)
    %{"mode" => "pool-worker", "worker_id" => "worker_1_5"} = ping
    step("handshake", %{pid: worker.os_pid})
    %{"success" => true, "result" => %{"text" => "grüße 🎈", "n" => [1, :null, 2.5]}} =
      PortWorker.call(worker, 1, "echo", %{text: "grüße 🎈", n: [1, :null, 2.5]})

    %{"success" => true, "result" => %{"done" => true}} = PortWorker.call(worker, 2, "noise")
    step("commands")
    %{"success" => false, "error" => "boom {}"} = PortWorker.call(worker, 3, "fail")
    %{"success" => true, "result" => %{"error" => _}} = PortWorker.call(worker, 4, "error_inside")
    %{"success" => false, "error" => "denied: " <> _} = PortWorker.call(worker, 5, "forbidden")
    step("errors")
    PortWorker.send_request(worker, 6, "die", %{status: 9})
    %{"success" => false, "error" => "crash: " <> _} = PortWorker.receive_answer(worker, 6, 10_000)
    step("died", %{status: PortWorker.receive_exit(worker)})
    {worker, _} = PortWorker.open(executable, arguments)
    step("handshake", %{pid: worker.os_pid})
    true = Port.close(worker.port)
    step("closed")
  end

  def run("hold", executable, arguments) do
    {worker, ping} = PortWorker.open(executable, arguments)
    step("handshake", %{session: Map.get(ping, "session", ""), pid: worker.os_pid})
    PortWorker.send_request(worker, 1, "execute", %{code: "import time; time.sleep(60)"})
    Process.sleep(:infinity)
  end
end

:io.setopts(:standard_io, encoding: :unicode)
[name, executable | arguments] = System.argv()
Conversation.run(name, executable, arguments)
