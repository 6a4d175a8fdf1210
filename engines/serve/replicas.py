"""Bundles loaded several times, by processes of a Ray cluster. No torch."""

from __future__ import annotations

import queue
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from engines.base import EngineOptions, make_engine
from engines.errors import EngineError
from engines.runner import Result, Runner
from exporter.bundle import Bundle
from search.runs.parallel import Where, ray_cluster, require_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from exporter.shape import Shape


@dataclass(frozen=True)
class EngineAsked:
    """An engine that a process makes for itself.

    Attributes:
        name: as on the command line.
        device: where it runs.
        options: of it.
    """

    name: str
    device: str
    options: EngineOptions

    def runner_of(self) -> Callable[[Bundle], Runner]:
        """What loads a variant on the engine, which is made here."""
        return partial(Runner, engine=make_engine(self.name, self.device, self.options))


class Replica:
    """One process with every bundle at all of its shapes; an actor of Ray."""

    def __init__(self, bundles: Sequence[Path], asked: EngineAsked) -> None:
        runner_of = asked.runner_of()
        self._runners = {
            (path, each.shape): runner_of(each)
            for path in bundles
            for each in Bundle.open(path).variants()
        }

    def ready(self) -> bool:
        """Answers once everything is loaded."""
        return bool(self._runners)

    def run(self, path: Path, shape: Shape, prompt: str, **asked: Any) -> Result:
        """One run; see `Runner.run`."""
        return self._runners[path, shape].run(prompt, **asked)


class RemoteRunner:
    """A variant of a bundle that whichever replica is idle runs; as far as the queue uses a `Runner`."""

    on_host = False

    def __init__(self, bundle: Bundle, idle: queue.Queue[Any]) -> None:
        self.bundle, self._idle = bundle, idle

    def preview(self, number: int) -> NDArray[Any] | None:
        """None: what a replica has made is not seen before its run is done."""
        del number
        return None

    def run(
        self,
        prompt: str,
        *,
        on_call: Callable[..., None] | None = None,
        **asked: Any,
    ) -> Result:
        """As `Runner.run`; it goes on even if nobody waits for it.

        Raises:
            EngineError: the run failed, or its replica died twice.
        """
        import ray

        del on_call
        replica = self._idle.get()
        try:
            found: Result = ray.get(
                replica.run.remote(self.bundle.path.absolute(), self.bundle.shape, prompt, **asked)
            )
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            msg = f"a replica died during the run ({type(error).__name__}); send the request again"
            raise EngineError(msg) from error
        else:
            return found
        finally:
            self._idle.put(replica)


def _require_room(has: Mapping[str, float], wanted: Mapping[str, int]) -> None:
    """Refuse replicas that a cluster would wait for forever."""
    for kind, count in wanted.items():
        if has.get(kind, 0) < count:
            msg = (
                f"the replicas need {count} {kind}s, and the Ray cluster has {has.get(kind, 0):g}; ask for "
                "fewer with --replicas, or add machines"
            )
            raise EngineError(msg)


@contextmanager
def replicated(
    bundles: Sequence[Path], asked: EngineAsked, count: int, report: Callable[[str], None]
) -> Iterator[Callable[[Bundle], RemoteRunner]]:
    """While open, `count` replicas are loaded; gives what makes a runner of a variant.

    A replica that dies is started again, and does its run once more.

    Args:
        bundles: directories, under the same paths on every machine.
        asked: the engine; on a GPU, each replica gets one.
        count: of replicas.
        report: called with a progress message.

    Raises:
        SearchError: Ray is not installed.
        EngineError: the cluster is too small, or a replica cannot load the bundles.
    """
    require_place(Where.RAY)
    import ray

    gpus = int(asked.device == "cuda")
    with ray_cluster({"num_cpus": count}):
        _require_room(ray.cluster_resources(), {"CPU": count, "GPU": gpus * count})
        actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=1)(Replica)
        places = [path.absolute() for path in bundles]
        replicas = [actor.remote(places, asked) for _ in range(count)]
        report(f"load {count} replicas")
        try:
            ray.get([each.ready.remote() for each in replicas])
        except ray.exceptions.RayError as error:
            reason = str(getattr(error, "cause", error)).strip().rpartition("\n")[2]
            reason = reason or type(error).__name__
            msg = f"a replica cannot load the bundles ({reason}); try stepcarve run on its machine"
            raise EngineError(msg) from error
        idle: queue.Queue[Any] = queue.Queue()
        for each in replicas:
            idle.put(each)
        yield lambda bundle: RemoteRunner(bundle, idle)
