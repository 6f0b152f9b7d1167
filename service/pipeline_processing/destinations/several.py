"""All destinations of a job. Each artifact goes to one of them, the manifest to the primary."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from pipeline_processing.errors import SettingsError
from pipeline_processing.plan import Artifact, Plan, UploadRef
from pipeline_processing.ports import Destination, ManifestStore, PointerStore


class Destinations:
    """
    Completes, deletes and aborts each artifact at the destination with its URL, which must be one of these (see
    `holds`). The methods raise the errors of `Destination`.
    """

    def __init__(self, destinations: Sequence[Destination]) -> None:
        """
        The first one that holds no tables is the primary; without one, the first. Raises SettingsError if two have the
        same URL.
        """
        self.all = tuple(destinations)
        self.objects = tuple(each for each in self.all if not each.holds_tables)
        self.tables = tuple(each for each in self.all if each.holds_tables)
        self._by_url = {each.url: each for each in self.all}
        if len(self._by_url) < len(self.all):
            raise SettingsError(
                f"Two destinations are the same place: {', '.join(each.url for each in self.all)}. Use another bucket, "
                "prefix, folder or schema for one of them, or remove it."
            )

    @property
    def primary(self) -> Destination:
        """The destination that holds the manifest."""
        return (self.objects or self.all)[0]

    @property
    def manifests(self) -> ManifestStore:
        """The primary as a manifest store. Dry runs have none."""
        assert isinstance(self.primary, ManifestStore), f"{self.primary.url} holds no manifests"
        return self.primary

    @property
    def pointers(self) -> PointerStore:
        """The primary as a store of pointers. Tables are none."""
        assert isinstance(self.primary, PointerStore), f"{self.primary.url} holds no pointers"
        return self.primary

    def holds(self, url: str) -> bool:
        """Whether one of these has that URL. An upload recorded without a URL belongs to the primary."""
        return url == "" or url in self._by_url

    def missing(self, plan: Plan) -> list[str]:
        """Return the URLs of the plan's destinations that aren't among these."""
        needed = dict.fromkeys([plan.destination, *(artifact.destination for artifact in plan.artifacts)])
        return [url for url in needed if not self.holds(url)]

    def url(self, artifact: Artifact) -> str:
        """Return the URL of an artifact's object."""
        return f"{artifact.destination or self.primary.url}/{artifact.key}"

    async def verify_installation(self, installation: UUID) -> None:
        for each in self.all:
            await each.verify_installation(installation)

    async def mark_installation(self, installation: UUID) -> None:
        for each in self.all:
            await each.mark_installation(installation)

    async def complete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        await self._of(artifact.destination).complete(artifact, metadata=metadata)

    async def delete(self, artifact: Artifact, *, metadata: Mapping[str, str]) -> None:
        await self._of(artifact.destination).delete(artifact, metadata=metadata)

    async def abort(self, upload: UploadRef) -> None:
        await self._of(upload.destination).abort(upload)

    def _of(self, url: str) -> Destination:
        return self._by_url[url] if url else self.primary
