"""One party in many jobs: each on a thread of its own, all behind one door.

A party starts the jobs that it leads, as guest, a few at a time. A job in which it is host or
arbiter starts when another party of it calls, so that parties that have the same jobs in different
orders do not wait for each other.
"""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from residue.errors import ResidueError
from residue_federated._certificates import Identity
from residue_federated._devices import Devices
from residue_federated._jobs import Job, load_job
from residue_federated._party import (
    PartyReport,
    answer_done,
    has_checkpoints,
    has_ended,
    is_done,
    run_party,
)
from residue_federated.errors import (
    FederatedError,
    JobError,
    PeerFailed,
    PeerLost,
    PeerRefused,
    PeerReturned,
)
from residue_federated.store import recorded
from residue_federated.transport import Door

__all__ = ["Desk", "News", "folder_of"]

_SUFFIXES = (".yaml", ".yml")
_POLL = 0.5
"""Seconds between two looks at the folder of jobs."""
_STOPPING = 10.0
"""Seconds for jobs to say good-bye when the party is told to stop."""

_Mark = tuple[int, int]
"""Time of change, in nanoseconds, and size of a file."""
State = Literal["waiting", "running", "done", "failed"]
News = Callable[[str, str], None]
"""Called with the job's name, or the file's where there is no job, and what is new."""


def folder_of(job: Job) -> str:
    """The name of a job's run directory: the same for the same job, so that it is resumed."""
    return f"{job.name}-{job.digest[:12]}"


@dataclass
class _Post:
    """A job that was handed in.

    called: by another party of it. ready: done, but for the others. withdrawn: its file was removed
    while its thread runs, so that it is forgotten when that ends.
    """

    file: Path
    job: Job
    addresses: Mapping[str, str]
    state: State = "waiting"
    called: bool = False
    ready: bool = False
    withdrawn: bool = False
    thread: threading.Thread | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        return self.job.digest


class Desk:
    """Takes jobs in, runs them, and keeps them apart: one that fails touches no other.

    Args:
        party: its name in all jobs.
        identity: its certificate and key.
        door: where the others reach it.
        devices: what jobs compute on.
        out: below it every job gets a directory, see `folder_of`.
        at_once: how many jobs that it leads run at the same time.
        device: for all jobs, in place of their own.
        news: told what happens to jobs, from their threads.
    """

    def __init__(
        self,
        party: str,
        identity: Identity,
        door: Door,
        devices: Devices,
        out: Path,
        *,
        at_once: int = 2,
        device: str | None = None,
        news: News = lambda job, text: None,
    ) -> None:
        self._party, self._identity, self._door, self._out = party, identity, door, out
        self._devices = devices
        self._at_once, self._device, self._news = at_once, device, news
        self._changed = threading.Condition()
        self._posts: dict[str, _Post] = {}
        self._seen: dict[Path, tuple[_Mark, bool]] = {}  # with whether two looks found it so
        self._stopping = False

    def submit(self, file: Path) -> None:
        """Take the job of a file in. One that is done already is not run again.

        Raises `JobError` if it is malformed, has no part for this party, lacks the address of
        another one, or is there already and not failed.
        """
        job = load_job(file)
        job.party(self._party)
        if self._device is not None:
            job = job.replace(devices={self._party: self._device})
        others = {p.name: p.address for p in job.parties if p.name != self._party}
        unknown = [name for name, address in others.items() if address is None]
        if unknown:
            raise JobError(f"{file.name}: the job gives no address for {', '.join(unknown)}")
        addresses = {n: a for n, a in others.items() if a is not None}
        post = _Post(file, job, addresses)
        with self._changed:
            known = self._posts.get(job.digest)
            if known is not None and known.withdrawn:  # it is back before its thread has ended
                known.file, known.job, known.addresses = file, job, addresses
                known.withdrawn = False
                return
            if known is not None and known.state in ("waiting", "running"):
                raise JobError(f"{file.name}: the job of {known.file.name} is the same")
            folder = self._out / folder_of(job)
            post.ready = is_done(job, folder)
            if has_ended(job, folder):
                post.state = "done"
            self._posts[job.digest] = post
            self._wait_for(post)
            self._changed.notify_all()
        text = "done before" if post.state == "done" else "waits for its turn"
        warning = f"; its {job.key.bits}-bit key is insecure" if job.key.insecure else ""
        self._news(job.name, text + warning)

    def look(self, folder: Path) -> None:
        """Take the jobs of new and changed files of a folder in; forget those of files removed.

        A file is read once two looks have found it the same: it has been written to its end. While
        the folder cannot be read, all stays as it is.
        """
        try:
            found = _job_files(folder)
        except OSError:
            return
        for file in self._seen.keys() - found.keys():
            del self._seen[file]
            self._withdraw(file)
        for file, mark in found.items():
            before = self._seen.get(file)
            self._seen[file] = mark, before is not None and before[0] == mark
            if before != (mark, False) or not self._seen[file][1]:
                continue
            self._withdraw(file)
            try:
                self.submit(file)
            except (ResidueError, OSError) as error:
                self._news(ascii(file.name), f"not taken: {error}")

    def run(self, folder: Path | None = None) -> list[str]:
        """Run jobs: those of a folder until `stop`, else those handed in until all have ended.

        Returns the names of those that failed.
        """
        while True:
            if folder is not None:
                self.look(folder)
            with self._changed:
                self._start()
                states = [post.state for post in self._posts.values()]
                idle = folder is None and not {"waiting", "running"} & set(states)
                if self._stopping or idle:
                    break
                self._changed.wait(_POLL)
        with self._changed:
            posts = list(self._posts.values())
        for post in posts:
            thread = post.thread  # which sets it to None when it ends
            if thread is not None:
                thread.join(_STOPPING)
            if post.state == "done":
                self._door.dismiss(post.digest)
        return [post.job.name for post in posts if post.state == "failed"]

    def stop(self) -> None:
        """End all jobs; the others are told. They can be resumed."""
        self._stopping = True  # no lock: a signal may have interrupted who holds it
        threading.Thread(
            target=self._door.halt,
            args=(FederatedError(f"{self._party} was told to stop"),),
            daemon=True,
        ).start()

    def _withdraw(self, file: Path) -> None:
        """Forget the job of a file that was removed or changed, at once or when its thread ends."""
        with self._changed:
            for post in [p for p in self._posts.values() if p.file == file]:
                if post.thread is not None:
                    post.withdrawn = True
                    continue
                if post.state in ("waiting", "done"):
                    self._door.dismiss(post.digest)
                del self._posts[post.digest]

    def _wait_for(self, post: _Post) -> None:
        def called() -> None:
            with self._changed:
                post.called = True
                self._changed.notify_all()

        self._door.expect(post.digest, [*post.addresses], called)

    def _start(self) -> None:
        """Start what has its turn; under the lock."""
        led = sum(p.state == "running" and self._leads(p) for p in self._posts.values())
        for post in self._posts.values():
            if self._stopping or post.thread is not None:
                continue
            if post.state == "done" and post.called:
                self._begin(post, self._answer)
            if post.state != "waiting":
                continue
            its_turn = self._leads(post) and led < self._at_once
            if not (post.called or post.ready or its_turn):
                continue
            led += self._leads(post)
            post.state = "running"
            self._begin(post, self._work)

    def _begin(self, post: _Post, work: Callable[[_Post], None]) -> None:
        """Start the thread of a job; under the lock."""
        name = f"residue-{post.job.name}"
        post.thread = threading.Thread(target=work, args=(post,), name=name, daemon=True)
        post.thread.start()

    def _leads(self, post: _Post) -> bool:
        return post.job.guest.name == self._party

    def _work(self, post: _Post) -> None:
        """The thread of a job."""
        name, failure, again = post.job.name, "internal error", False
        try:
            report = self._run(post)
            failure = ""
            figures = [f"{k} {v:.4f}" for c in report.components for k, v in c.metrics.items()]
            away = f"; out of reach: {', '.join(report.unheard)}" if report.unheard else ""
            self._news(name, ", ".join(["done", *figures]) + away)
        except ResidueError as error:
            failure = str(error)
            # If it is the others' fault, who leads the job may call again: then it goes on.
            others = isinstance(error, PeerLost | PeerFailed | PeerRefused)
            again = others and not self._leads(post) and not self._stopping
        finally:
            with self._changed:
                post.ready = False
                post.state = "waiting" if again else "failed" if failure else "done"
                told = f"the job has failed at {self._party}: {failure}"
                self._ended(post, told if post.state == "failed" else "")
                again = again and not post.withdrawn
            if failure:
                waits = "; waits to be called again" if again else ""
                self._news(name, f"failed: {failure}{waits}")

    def _answer(self, post: _Post) -> None:
        """The thread of a job that is done, while another party of it, which may not know, calls.

        One that has lost what it had does not make this one begin again.
        """
        name, folder, failure = post.job.name, self._out / folder_of(post.job), ""
        try:
            answer_done(post.job, self._party, self._identity, self._door, post.addresses, folder)
        except PeerReturned:
            failure = (
                f"the job is done at {self._party}; to do it again, remove {folder.name} there and "
                "hand it in anew"
            )
            self._news(name, "stays done; a party has begun again, and is told so")
        except ResidueError as error:
            self._news(name, f"stays done; a party that asked is not answered: {error}")
        finally:
            with self._changed:
                self._ended(post, failure)

    def _ended(self, post: _Post, failure: str) -> None:
        """A job's thread has ended: callers are told of a failure or waited for; under the lock."""
        post.called, post.thread = False, None
        if failure:
            self._door.fail(post.digest, [*post.addresses], failure)
        elif post.withdrawn:
            self._door.dismiss(post.digest)
        else:
            self._wait_for(post)
        if post.withdrawn:
            del self._posts[post.digest]
        self._changed.notify_all()

    def _run(self, post: _Post) -> PartyReport:
        job = post.job
        folder = self._out / folder_of(job)
        resumed = has_checkpoints(folder)
        self._news(job.name, "goes on" if resumed else "starts")
        with (
            recorded(job, folder, self._party, resumed=resumed) as record,
            closing(self._devices.open(job.party(self._party).device)) as backend,
        ):

            def progress(component: str, done: int, total: int, loss: float | None) -> None:
                record.round(self._party, component, done, total, loss)
                text = f"{component}: {done}/{total}" if done else f"{component}: starts"
                self._news(job.name, text if loss is None else f"{text}  loss {loss:.6f}")

            report = run_party(
                job,
                self._party,
                self._identity,
                door=self._door,
                meet=lambda port: post.addresses,
                directory=folder,
                backend=backend,
                progress=progress,
                status=record.status,
            )
            record.party(report)
        return report


def _job_files(folder: Path) -> dict[Path, _Mark]:
    """The job files of a folder, in order of their names, without hidden ones."""
    found = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in _SUFFIXES and not file.name.startswith("."):
            try:
                status = file.stat()
            except OSError:  # removed since, or a link to nowhere
                continue
            if stat.S_ISREG(status.st_mode):
                found[file] = status.st_mtime_ns, status.st_size
    return found
