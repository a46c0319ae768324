import hashlib, hmac, secrets, socket, ssl, subprocess, threading, random

context = ssl.create_default_context()
print(context.verify_mode, context.check_hostname, context.minimum_version, len(context.get_ca_certs()) > 0 or len(context.get_ciphers()) > 0)
print(ssl.get_default_verify_paths().openssl_cafile, ssl.OPENSSL_VERSION.split()[0])
made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], capture_output=True) if __import__("shutil").which("openssl") else None
print(made and made.returncode)
if made:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain("cert.pem", "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    def serve():
        for _ in range(2):
            try:
                with serving.wrap_socket(listener.accept()[0], server_side=True) as one:
                    one.sendall(one.recv(100).upper())
            except ssl.SSLError:
                pass
    thread = threading.Thread(target=serve)
    thread.start()
    trusting = ssl.create_default_context(cafile="cert.pem")
    with trusting.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname="localhost") as client:
        client.sendall(b"secret")
        print(client.recv(100), client.version())
    try:
        context.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname="localhost")
    except ssl.SSLCertVerificationError as error:
        print(error.verify_message)
    thread.join()
print(hashlib.sha256(b"x").hexdigest()[:8], hashlib.new("md5", b"x").hexdigest()[:8], hashlib.scrypt(b"p", salt=b"s", n=2, r=8, p=1).hex()[:8], hashlib.pbkdf2_hmac("sha1", b"p", b"s", 10).hex()[:8])
print(hmac.new(b"k", b"m", "sha512").hexdigest()[:8], len(secrets.token_hex()), random.Random(5).random(), sorted(hashlib.algorithms_guaranteed)[:3])
