class Gateways:
    def __init__(self, *a, **k):
        self.sessions = None

    async def open(self, listener, order, placeholders):
        listener.close()

        class G:
            async def close(self):
                pass

        return G()
