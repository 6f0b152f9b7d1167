"""All destinations of a job: each artifact is at one of them, and the manifest at the primary."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from pipeline_processing.errors import SettingsError
from pipeline_processing.model import Artifact, Plan, UploadRef
from pipeline_processing.ports import Destination, ManifestStore


class Destinations:
    """
    Completes, deletes and aborts a plan's artifacts, each at the destination of its URL, which must be here (see
    `holds`). Methods raise as those of `Destination`.
    """

    def __init__(self, destinations: Sequence[Destination]) -> None:
        """The first that holds no tables is the primary. Raises SettingsError if two have one URL."""
        self.all = tuple(destinations)
        self.objects = tuple(each for each in self.all if not each.holds_tables)
        self.tables = tuple(each for each in self.all if each.holds_tables)
        self._by_url = {each.url: each for each in self.all}
        if len(self._by_url) < len(self.all):
            raise SettingsError(
                f"Two destinations are the same place: {', '.join(each.url for each in self.all)}. Give each artifact "
                "one place: another bucket, prefix, folder or schema, or one destination less."
            )

    @property
    def primary(self) -> Destination:
        """The one that holds the manifest."""
        return self.objects[0]

    @property
    def manifests(self) -> ManifestStore:
        """The primary, as the store of manifests. There is none where nothing is published."""
        assert isinstance(self.primary, ManifestStore), f"{self.primary.url} holds no manifests"
        return self.primary

    def holds(self, url: str) -> bool:
        """Whether the destination of that URL is here. An upload recorded without a URL belongs to the primary."""
        return url == "" or url in self._by_url

    def missing(self, plan: Plan) -> list[str]:
        """URLs of a plan's destinations that aren't here."""
        needed = dict.fromkeys([plan.destination, *(artifact.destination for artifact in plan.artifacts)])
        return [url for url in needed if not self.holds(url)]

    def url(self, artifact: Artifact) -> str:
        """The URL of an object."""
        return f"{artifact.destination or self.primary.url}/{artifact.key}"

    async def verify_installation(self, installation: UUID) -> None:
        """At all of them."""
        for each in self.all:
            await each.verify_installation(installation)

    async def mark_installation(self, installation: UUID) -> None:
        """At all of them."""
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
