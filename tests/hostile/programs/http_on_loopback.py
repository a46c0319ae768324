import http.client, http.server, json, os, socketserver, threading, urllib.error, urllib.parse, urllib.request, xmlrpc.client, xmlrpc.server, wsgiref.simple_server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
            return self.send_error(404)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/found?x=1")
            return self.end_headers()
        body = json.dumps({"path": self.path, "agent": self.headers["User-Agent"].split("/")[0]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.end_headers()
        self.wfile.write(data[::-1])
    def log_message(self, format, *args):
        print("served", args[0], args[1])

server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://localhost:{server.server_port}"
with urllib.request.urlopen(base + "/a%20b") as answer:
    print(answer.status, json.load(answer), answer.headers["Content-Type"])
print(urllib.request.urlopen(base + "/moved").url.split("/")[-1])
try:
    urllib.request.urlopen(base + "/missing")
except urllib.error.HTTPError as error:
    print(error.code, error.reason)
print(urllib.request.urlopen(urllib.request.Request(base, data=urllib.parse.urlencode({"q": "é"}).encode(), method="POST")).read())
connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
connection.request("GET", "/direct", headers={"User-Agent": "mine/1"})
print(connection.getresponse().read())
server.shutdown()
server.server_close()
try:
    urllib.request.urlopen(base, timeout=5)
except urllib.error.URLError as error:
    print(error.reason)
os.makedirs("site", exist_ok=True)
open("site/index.html", "w").write("<p>hello</p>")
import functools
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
with socketserver.TCPServer(("127.0.0.1", 0), functools.partial(Quiet, directory="site")) as files:
    threading.Thread(target=files.serve_forever, daemon=True).start()
    print(urllib.request.urlopen(f"http://127.0.0.1:{files.server_address[1]}/").read())
    files.shutdown()
with xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False) as rpc:
    rpc.register_function(pow)
    threading.Thread(target=rpc.serve_forever, daemon=True).start()
    print(xmlrpc.client.ServerProxy(f"http://127.0.0.1:{rpc.server_address[1]}").pow(2, 10))
    rpc.shutdown()
for url in ("file:///etc/hostname-that-is-not", "data:text/plain,hello", "nothing://x"):
    try:
        print(urllib.request.urlopen(url).read())
    except (urllib.error.URLError, OSError) as error:
        print(type(error).__name__)
