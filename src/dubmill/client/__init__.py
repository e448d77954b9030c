"""A client of the dubbing endpoint.

client = DubClient("http://localhost:8080")
video = client.dub("in.mp4", to="es", text="uno tres seis", consent="Ana Ruiz, the speaker, agrees", seed=1)
Path("out.mp4").write_bytes(video)

`AsyncDubClient` has the same methods as coroutines. Both submit jobs: a dropped connection, or a server that is started
again, costs nothing but time.
"""

from dubmill.client.clients import AsyncDubClient, DubClient
from dubmill.client.webhooks import is_webhook_genuine, webhook_signature

__all__ = ["AsyncDubClient", "DubClient", "is_webhook_genuine", "webhook_signature"]
