"""Handlers that hold threads, fork, change the process or outlive the server, as a module for a real server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.serving import SERVE, Served, serving

MODULE = "misbehaving"

SOURCE = '''
import asyncio, atexit, concurrent.futures, ctypes, multiprocessing, os, signal, socket, subprocess, sys, threading, time
import kqs
from posix import _exit as leave_now  # coverage puts a function that takes locks in place of `os._exit`

FORK = multiprocessing.get_context("fork")
LONG_S = 120


def say(*words):
    print(*words)


@kqs.handler("to_thread")
async def to_thread(data):
    say("held")
    await asyncio.to_thread(time.sleep, LONG_S)


@kqs.handler("run_in_executor")
async def run_in_executor(data):
    say("held")
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, LONG_S)


@kqs.handler("thread")
def thread(data):
    threading.Thread(target=time.sleep, args=(LONG_S,)).start()
    say("held")


@kqs.handler("plain")
def plain(data):
    say("held")
    time.sleep(data or LONG_S)


@kqs.handler("pool")
def pool(data):
    concurrent.futures.ThreadPoolExecutor(2).submit(time.sleep, LONG_S)
    say("held")


@kqs.handler("process")
def process(data):
    child = FORK.Process(target=time.sleep, args=(LONG_S,))
    child.start()
    say("held")
    say("child", child.pid)


@kqs.handler("process_pool")
def process_pool(data):
    pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=FORK)
    pool.submit(time.sleep, LONG_S)
    globals()["kept_pool"] = pool
    say("held")


@kqs.handler("hook")
def hook(data):
    atexit.register(time.sleep, LONG_S)
    say("held")


CLINGING = []


class Clinging:
    def __del__(self):
        time.sleep(LONG_S)


@kqs.handler("finalizer")
def finalizer(data):
    CLINGING.append(Clinging())
    say("held")


@kqs.handler("task")
async def task(data):
    async def endless():
        while True:
            try:
                await asyncio.sleep(LONG_S)
            except asyncio.CancelledError:
                pass
    globals()["kept_task"] = asyncio.create_task(endless())
    say("held")


@kqs.handler("generator")
async def generator(data):
    async def endless():
        try:
            yield 1
        finally:
            while True:
                await asyncio.sleep(LONG_S)
    globals()["kept_generator"] = endless()
    await anext(globals()["kept_generator"])
    say("held")


@kqs.handler("loop")
async def loop(data):
    say("held")
    time.sleep(data or LONG_S)
    say("let go")


@kqs.handler("spinning")
async def spinning(data):
    say("held")
    while True:
        pass


@kqs.handler("terminated")
async def terminated(data):
    for _ in range(data):
        child = FORK.Process(target=time.sleep, args=(LONG_S,))
        child.start()
        child.terminate()
        child.join()
        assert child.exitcode == -signal.SIGTERM, child.exitcode
    return "terminated"


def die():
    leave_now(3)


@kqs.handler("broken_pool")
def broken_pool(data):
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=FORK) as pool:
        try:
            pool.submit(die).result()
        except concurrent.futures.process.BrokenProcessPool:
            return "broken"


@kqs.handler("interrupted")
def interrupted(data):
    codes = []
    for _ in range(data):
        child = FORK.Process(target=time.sleep, args=(LONG_S,))
        child.start()
        for _ in range(3):  # one that meets a finalizer, amid what multiprocessing begins with, is lost
            os.kill(child.pid, signal.SIGINT)
            child.join(5)
            if child.exitcode is not None:
                break
        codes.append(child.exitcode)
    return codes


def fork_and(do):
    pid = os.fork()
    if pid == 0:
        do()
        return None
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fail():
    raise ValueError("in the child")


@kqs.handler("returns")
async def returns(data):
    return fork_and(lambda: None)


@kqs.handler("raises")
async def raises(data):
    return fork_and(fail)


@kqs.handler("exits")
async def exits(data):
    return fork_and(sys.exit)


@kqs.handler("plain_returns")
def plain_returns(data):
    return fork_and(lambda: None)


@kqs.handler("plain_raises")
def plain_raises(data):
    return fork_and(fail)


@kqs.handler("awaits")
async def awaits(data):
    pid = os.fork()
    if pid == 0:
        await asyncio.sleep(0)
        say("the child went on")
        leave_now(0)
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        await asyncio.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


@kqs.handler("ticks")
async def ticks(data, job):
    for _ in range(data):
        await asyncio.sleep(0)
        if os.getpid() != SERVER:
            say("a neighbour went on in the child")
    say("ticked")

SERVER = os.getpid()


@kqs.handler("own_pid")
def own_pid(data):
    return os.getpid()


@kqs.handler("exits_in_a_task")
async def exits_in_a_task(data):
    async def forks():
        if not os.fork():
            sys.exit()
    await asyncio.sleep(0)
    globals()["kept_task"] = asyncio.create_task(forks())


@kqs.handler("called_later")
async def called_later(data):
    ended = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: ended.set_result(fork_and(lambda: None)))
    return await ended


def held_descriptors():
    """Return what files and sockets with a name this process has open."""
    held = []
    for number in range(3, 200):
        try:
            held.append(os.readlink(f"/proc/self/fd/{number}"))
            if held[-1].startswith("socket:"):
                held[-1] = str(socket.socket(fileno=os.dup(number)).getsockname()).replace(" ", "")
        except OSError:
            pass
    return [name for name in held if name not in ("", "/dev/null") and not name.startswith(("anon_inode:", "pipe:"))]


@kqs.handler("orphan")
def orphan(data):
    """Leaves a process of another session that says what it holds."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork():
            leave_now(0)
        say("orphan", os.getpid(), "holds", *held_descriptors(), "and no more")
        time.sleep(LONG_S)
        leave_now(0)
    os.waitpid(pid, 0)


@kqs.handler("subprocesses")
async def subprocesses(data):
    """Runs programs in each way there is; returns what they were ended with."""
    codes = []
    for options in ({}, {"preexec_fn": lambda: None}, {"close_fds": False}):
        child = subprocess.Popen(["sleep", str(LONG_S)], **options)
        child.terminate()
        codes.append(child.wait())
        child = await asyncio.create_subprocess_exec("sleep", str(LONG_S), **options)
        child.terminate()
        codes.append(await child.wait())
    return codes


@kqs.handler("listing")
def listing(data):
    """Leaves a program that was started with every descriptor there is, and returns what those are."""
    return subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True).stdout


@kqs.handler("deaf")
async def deaf(data):
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, say, "unheard")
    loop.remove_signal_handler(signal.SIGUSR2)


@kqs.handler("own_files")
def own_files(data):
    """A child goes on writing to a file and to a socket of its own, and finds its parent's environment."""
    ours, theirs = socket.socketpair()
    with open("own.txt", "w") as file:
        def write():
            file.write("written")
            file.flush()
            ours.send(b"sent")
            leave_now(0)
        status = fork_and(write)
    return [status, theirs.recv(100).decode(), open("own.txt").read()]


@kqs.handler("chdir")
async def chdir(data):
    os.chdir("/")
    os.umask(0o777)


@kqs.handler("daemon")
def daemon(data):
    """Double-forks: its grandchild is somebody else's to reap."""
    pid = os.fork()
    if pid == 0:
        if os.fork():
            leave_now(0)
        say("grandchild of", os.getppid())
        leave_now(0)
    os.waitpid(pid, 0)
'''


@contextmanager
def misbehaving(folder: Path, command: Sequence[str] = SERVE, **settings: str) -> Iterator[Served]:
    """Run a server with these handlers, whose grace is a second."""
    (folder / f"{MODULE}.py").write_text(SOURCE)
    defaults = {"WORKER__MODULES": f'["kqs.builtin", "{MODULE}"]', "WORKER__GRACE_S": "1"}
    with serving(folder, command, **(defaults | settings)) as server:
        yield server
