"""A bare FastAPI route that returns the bytes of a file: `python -m tests.bench.bare BODY PORT_FILE`."""

import socket
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.responses import Response

app = FastAPI()
body = Path(sys.argv[1]).read_bytes()


@app.get("/same")
async def same() -> Response:
    return Response(body, media_type="application/json")


bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
bound.bind(("127.0.0.1", 0))
bound.listen(2048)
Path(sys.argv[2]).write_text(str(bound.getsockname()[1]))
uvicorn.Server(uvicorn.Config(app, http="httptools", log_level="warning", access_log=False)).run(sockets=[bound])
