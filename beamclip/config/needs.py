"""What each objective has to be shown of a step. Everything else follows from it: views, stores, workers' memory."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Needs:
    """What an objective has to be shown of every step.

    Attributes:
        views: large views of each image.
        crops: the recipe's small crops too, where it has any.
        projected: the student's embeddings in the teacher's space. Where false, the projector is not trained.
        embeddings: the teacher's embeddings of the same views.
        anchors: text embeddings of the classes.
        labels: each image's class.
        clusters: k-means of the teacher's embeddings, and each image's cluster.
        all_teachers: all teachers' embeddings and anchors; else the first one's alone.
    """

    views: int = 1
    crops: bool = False
    projected: bool = False
    embeddings: bool = False
    anchors: bool = False
    labels: bool = False
    clusters: bool = False
    all_teachers: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        """What both together need."""
        return Needs(**{f.name: max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)})


_DISTILLED = Needs(projected=True, embeddings=True)

NEEDS: dict[str, Needs] = {
    "csm": Needs(projected=True, embeddings=True, anchors=True, all_teachers=True),
    "simreg": _DISTILLED,
    "feature": _DISTILLED,
    "seed": _DISTILLED,
    "compress": _DISTILLED,
    "image_queue": _DISTILLED,
    "clip_cid": Needs(projected=True, embeddings=True, anchors=True, clusters=True),
    "simclr": Needs(views=2),
    "swav": Needs(views=2, crops=True),
    "supervised": Needs(labels=True),
}
