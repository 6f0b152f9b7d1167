"""What must hold despite all faults: at every moment, and once all runs have finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from datetime import datetime
from typing import Any

from pipeline_processing.destinations.installation import INSTALLATION_KEY
from pipeline_processing.history.memory.table import RunRecord, RunTable
from pipeline_processing.model import RunState
from pipeline_processing.plan import StagedTable
from pipeline_processing.runs.completions import RunCompletion
from pipeline_processing.runs.store import Claim, RunAttempts, RunQueue, RunStore
from tests.memory.destination import MemoryDestination

FAILURES = {
    "attempts_exhausted",
    "source_unavailable",
    "destination_unavailable",
    "history_unavailable",
}
"""The errors with which a simulated run may fail. Any other is a bug of the service."""

DECIDED = (RunState.PREPARED, RunState.SUCCEEDED, RunState.FAILED)


class Promises:
    """
    Watches a history and its destinations, the first of which has the manifests. Checks every call when it takes
    effect. All runs export these datasets.
    """

    def __init__(
        self, table: RunTable, runs: RunStore, destinations: Sequence[MemoryDestination], *, datasets: Sequence[str]
    ) -> None:
        self._table = table
        self._runs = runs
        self._destinations = destinations
        self._primary = destinations[0]
        self._datasets = datasets
        self._manifests: dict[str, bytes] = {}
        self._latest: dict[str, tuple[datetime, str]] = {}
        """Snapshot and run of each pointer."""
        self._recorded: set[str] = set()
        for method in ("renew", "check"):
            self._watch_claimed(runs.queue, method)
        for method in ("start", "record_upload", "prepare", "plan", "succeed"):
            self._watch_claimed(runs.attempts, method)
        for method in ("fail", "retry", "hand_back", "release", "void_plan"):
            self._watch_claimed(runs.attempts, method)
        for destination in destinations:
            for method in ("complete", "publish", "replace", "delete"):
                self._watch(destination, method)

    def _watch(self, destination: MemoryDestination, method: str) -> None:
        call = getattr(destination, method)

        async def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return await call(*args, **kwargs)
            finally:
                self.at_this_moment()

        setattr(destination, method, watched)

    def _watch_claimed(self, port: RunQueue | RunAttempts, method: str) -> None:
        call: Callable[..., Awaitable[Any]] = getattr(port, method)

        async def watched(claim: Claim, *args: Any, **kwargs: Any) -> Any:
            record = self._table.records[claim.run.run_id]
            superseded = record.run.fence != claim.fence
            before = _contents(record), len(self._table.events)
            try:
                answer = await call(claim, *args, **kwargs)
                assert not superseded, f"{method} with the old fence {claim.fence} succeeded: {record.run}"
                if method == "record_upload":
                    self._recorded.add(args[0].upload_id)
                return answer
            finally:
                if superseded:
                    after = _contents(record), len(self._table.events)
                    assert after == before, f"{method} of a superseded worker has changed the history"
                self.at_this_moment()

        setattr(port, method, watched)

    # -- at every moment -------------------------------------------------------------------------

    def at_this_moment(self) -> None:
        """
        A reader sees only what a run has decided, and no manifest before all the objects that it lists. A manifest
        never changes.
        """
        for destination in self._destinations:
            for key, (body, metadata) in destination.objects.items():
                if key.endswith("_latest.json"):
                    self._points_to_a_manifest(key, json.loads(body))
                elif key != INSTALLATION_KEY:
                    self._is_decided(destination, key, body, metadata)
        gone = set(self._manifests) - set(self._primary.objects)
        assert not gone, f"{gone} was removed"

    def _points_to_a_manifest(self, key: str, latest: Mapping[str, str]) -> None:
        """It never goes back, and its manifest is published."""
        version = datetime.fromisoformat(latest["snapshot_at"]), latest["run_id"]
        assert self._latest.get(key, version) <= version, f"{key} went back from {self._latest[key]} to {version}"
        self._latest[key] = version
        manifest = latest["manifest"].removeprefix(f"{self._primary.url}/")
        assert manifest in self._primary.objects, f"{key} points to {manifest}, which isn't published"

    def _is_decided(self, destination: MemoryDestination, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        record = self._table.records[metadata["run-id"]]
        run, where = record.run, f"{destination.url}/{key}"
        assert run.state in DECIDED, f"{where} is visible while its run is {run.state}"
        assert metadata["attempt"] == str(run.attempt), f"{where} is of attempt {metadata['attempt']}, not of {run}"
        if key.endswith("_manifest.json"):
            assert destination is self._primary, f"{where} is a manifest"
            assert run.state is not RunState.FAILED, f"{where} is published, and its run has failed"
            assert self._manifests.setdefault(key, body) == body, f"{where} has changed"
            self._is_complete(json.loads(body))
        elif record.plan is not None:
            artifacts = record.plan.artifacts
            (planned,) = (each for each in artifacts if (each.destination, each.key) == (destination.url, key))
            assert hashlib.sha256(body).hexdigest() == planned.sha256, f"{where} isn't what was decided"
            if destination.holds_tables:
                before = [each for each in artifacts if not isinstance(each.staged, StagedTable)]
                missing = [each for each in before if each.key not in self._at(each.destination).objects]
                # Nothing is deleted before the run has failed, which may still happen.
                assert run.state is RunState.FAILED or not missing, f"{where} is visible before {missing}"

    def _is_complete(self, manifest: dict[str, Any]) -> None:
        prefix = f"agency_id={manifest['agency_id']}/run_id={manifest['run_id']}"
        for entry in manifest["entries"]:
            key = entry["url"].removeprefix(f"{self._primary.url}/")
            assert key in self._primary.objects, f"{key} is in the manifest, but missing"
            body, _ = self._primary.objects[key]
            for other in self._destinations[1:]:
                its = f"{prefix}/{entry['dataset']}" if other.holds_tables else key
                assert its in other.objects, f"{other.url}/{its} is missing, but the manifest exists"
                assert other.objects[its][0] == body, f"{other.url}/{its} differs from {key}"
            assert hashlib.sha256(body).hexdigest() == entry["sha256"], f"{entry} has other bytes"
            assert len(body) == entry["meta"]["content_length"], f"{entry} has another size"
            assert body.count(b"\n") == entry["rows"], f"{entry} has other rows"

    # -- once all runs have finished -------------------------------------------------------------

    async def at_the_end(self, *, accepted_with: Mapping[str, str], cancelled: set[str], removals: bool) -> None:
        """
        Every run has one outcome, one event, and all its objects or none.

        `accepted_with` are the ids of the job configs with which the runs were accepted.
        """
        self._accepted_with = accepted_with
        self.at_this_moment()
        for run_id, record in self._table.records.items():
            self._ended_once(run_id, record, removals=removals)
            assert (record.run.state is RunState.CANCELLED) == (run_id in cancelled), f"{run_id}: {record.run.state}"
            if record.run.error is not None:
                kind = record.run.error.kind
                assert kind in FAILURES or (kind == "plan_lost" and removals), record.run.error
        await self._nothing_left_over()

    def only_poison_has_failed(self, poison: Set[str]) -> None:
        """Without other faults, runs that kill their process fail, and no other runs."""
        for run_id, record in self._table.records.items():
            expected = RunState.FAILED if run_id in poison else RunState.SUCCEEDED
            assert record.run.state is expected, f"{run_id}: {record.run}, and {poison} ended its process"

    def _ended_once(self, run_id: str, record: RunRecord, *, removals: bool) -> None:
        run = record.run
        assert run.state.finished, f"{run_id} is {run.state}"
        events = [event for event in self._table.events if event.run_id == run_id]
        assert [RunCompletion.model_validate_json(event.value) for event in events] == [RunCompletion.of(run)]
        assert len(record.attempts) == run.attempt
        fences = [attempt.fence for attempt in record.attempts]
        assert fences == sorted(set(fences))
        impossible = {"running", "prepared"} if removals else {"running", "prepared", "voided"}
        assert not {attempt.outcome for attempt in record.attempts} & impossible, record.attempts

        prefix = f"agency_id={run.agency_id}/run_id={run_id}/"
        visible = {(each.url, key) for each in self._destinations for key in each.objects if key.startswith(prefix)}
        if run.state is RunState.SUCCEEDED and not run.dry_run:
            manifest = json.loads(self._primary.objects[f"{prefix}_manifest.json"][0])
            version = datetime.fromisoformat(manifest["snapshot_at"]), run_id
            for dataset in self._datasets:
                assert self._latest[f"agency_id={run.agency_id}/{dataset}/_latest.json"] >= version, (
                    f"{run_id} is newer"
                )
            entries = {entry["url"].removeprefix(f"{self._primary.url}/") for entry in manifest["entries"]}
            tables = {f"{prefix}{dataset}" for dataset in self._datasets}
            assert visible == {
                (self._primary.url, f"{prefix}_manifest.json"),
                *((each.url, key) for each in self._destinations for key in (tables if each.holds_tables else entries)),
            }
            assert run.manifest_url == f"{self._primary.url}/{prefix}_manifest.json"
            assert manifest["config_id"] == run.config_id
            if run.pinned:
                assert run.config_id == self._accepted_with[run_id], f"{run_id} has another job config: {run}"
            exported = [self._primary.objects[key][0] for key in entries]
            assert all(f"with {run.config_id}".encode() in body for body in exported if body), f"{run_id}: {exported}"
            counts = ("rows_read", "rows_written", "rows_filtered", "rows_rejected", "attempt")
            assert {name: manifest[name] for name in counts} == {name: getattr(run, name) for name in counts}
        elif run.error is not None and run.error.kind == "plan_lost":
            # The worker may have died before it had deleted everything; gc deletes the rest of the plan.
            planned = record.plan.artifacts if record.plan is not None else ()
            known = {(artifact.destination, artifact.key) for artifact in planned}
            assert visible <= known, f"nothing will delete {visible - known}"
        else:
            assert not visible, f"{run_id} is {run.state}, and {visible} can be seen"

    async def _nothing_left_over(self) -> None:
        """After gc, only uploads that were never recorded are left."""
        for run_id in self._table.records:
            for upload in await self._runs.leftovers.lost_uploads(run_id):
                await self._at(upload.destination).abort(upload)
        left = {upload.upload_id for each in self._destinations for upload in each.open_uploads}
        assert not left & self._recorded, f"{left & self._recorded} were recorded, but nothing will abort them"

    def _at(self, url: str) -> MemoryDestination:
        (destination,) = (each for each in self._destinations if each.url == url)
        return destination


def _contents(record: RunRecord) -> tuple[Any, ...]:
    return record.run, record.plan, list(record.attempts), dict(record.uploads), record.handed_back
