"""Servers that are not written in Python."""

from __future__ import annotations

from benchmarks.fleet.cache import DebianPackages, NodePackages
from benchmarks.fleet.servers import Launch
from benchmarks.fleet.systems.asgi import PEERS
from benchmarks.fleet.systems.python import SOCKETIO_PATH
from benchmarks.fleet.systems.system import APPS, Family, Place, Plan, Scenario, System

__all__ = ["SYSTEMS"]

_NODE = NodePackages("node packages", ("ws@8.23.0", "socket.io@4.8.4"), APPS)
_NCHAN = DebianPackages("nchan", ("nginx", "libnginx-mod-nchan"), "usr/lib/nginx/modules/ngx_nchan_module.so")
_MOSQUITTO = DebianPackages(
    "mosquitto", ("mosquitto", "libmosquitto1", "libcjson1", "libdlt2", "libwrap0"), "usr/sbin/mosquitto"
)


def _node_ws(place: Place) -> Plan:
    return Plan(Launch(["node", str(_NODE.folder / "ws.mjs"), str(place.port)], place.port))


def _node_socketio(place: Place) -> Plan:
    return Plan(Launch(["node", str(_NODE.folder / "socketio.mjs"), str(place.port)], place.port))


def _nats(place: Place) -> Plan:
    config = place.folder / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{place.second_port}"\n'
        f'websocket {{ listen: "127.0.0.1:{place.port}", no_tls: true }}\n'
        "max_connections: 100000\n"
    )
    return Plan(Launch([PEERS.program("nats-server"), "-c", str(config)], place.port))


def _nchan(place: Place) -> Plan:
    config = place.folder / "nginx.conf"
    bodies = "\n".join(
        f"  {kind}_temp_path {place.folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"load_module {_NCHAN.folder / _NCHAN.program};\n"
        "daemon off;\nmaster_process on;\nworker_processes 1;\nworker_rlimit_nofile 19000;\n"
        f"pid {place.folder / 'nginx.pid'};\nerror_log stderr error;\n"
        "events { worker_connections 18000; }\n"
        f"http {{\n  access_log off;\n{bodies}\n"
        f"  server {{\n    listen 127.0.0.1:{place.port} backlog=4096;\n"
        "    location = /ws {\n      nchan_pubsub websocket;\n      nchan_channel_id bench;\n"
        "      nchan_message_buffer_length 1000;\n      nchan_message_timeout 30s;\n"
        "      nchan_subscriber_first_message newest;\n    }\n  }\n}\n"
    )
    program = str(_NCHAN.folder / "usr/sbin/nginx")
    argv = [program, "-p", str(place.folder), "-e", "stderr", "-c", str(config)]
    return Plan(Launch(argv, place.port, _NCHAN.environment()))


def _mosquitto(place: Place) -> Plan:
    config = place.folder / "mosquitto.conf"
    config.write_text(
        f"listener {place.second_port} 127.0.0.1\nlistener {place.port}\nprotocol websockets\n"
        "allow_anonymous true\nmax_queued_messages 0\nlog_type error\n"
    )
    argv = [str(_MOSQUITTO.folder / _MOSQUITTO.program), "-c", str(config)]
    return Plan(Launch(argv, place.port, _MOSQUITTO.environment()))


SYSTEMS = (
    System(
        name="node_ws",
        label="ws on node",
        family=Family.OTHER,
        needs=(_NODE,),
        start=_node_ws,
        paths={Scenario.FANOUT: "/ws", Scenario.IDLE: "/ws", Scenario.DEFLATE: "/ws"},
        note="compression off, as by default",
    ),
    System(
        name="node_socketio",
        label="Socket.IO on node",
        family=Family.OTHER,
        needs=(_NODE,),
        start=_node_socketio,
        paths={
            Scenario.FANOUT: SOCKETIO_PATH,
            Scenario.IDLE: SOCKETIO_PATH,
            Scenario.TOPICS: SOCKETIO_PATH,
        },
        protocol="socketio",
    ),
    System(
        name="nats",
        label="nats-server",
        family=Family.OTHER,
        needs=(PEERS,),
        start=_nats,
        paths={Scenario.FANOUT: "/", Scenario.IDLE: "/", Scenario.TOPICS: "/"},
        protocol="nats",
        note="Go; its own protocol in WebSocket frames. Topics: the client sends one publication for each",
    ),
    System(
        name="nchan",
        label="nchan (nginx)",
        family=Family.OTHER,
        needs=(_NCHAN,),
        start=_nchan,
        paths={Scenario.FANOUT: "/ws", Scenario.IDLE: "/ws"},
        note="C; pub/sub location over WebSocket, buffer of 1,000 messages",
    ),
    System(
        name="mosquitto",
        label="mosquitto",
        family=Family.OTHER,
        needs=(_MOSQUITTO,),
        start=_mosquitto,
        paths={Scenario.FANOUT: "/mqtt", Scenario.IDLE: "/mqtt", Scenario.TOPICS: "/mqtt"},
        protocol="mqtt",
        subprotocol="mqtt",
        note="C; MQTT 3.1.1, QoS 0, in WebSocket frames. Topics: the client sends one publication for each",
    ),
)
