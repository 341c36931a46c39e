"""Query sets tell the network what to segment (paper section 3.2); here are they and the tables they are learned in."""

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from tarvis_jax.model.config import ModelConfig

INSTANCE = "instance"
BACKGROUND = "background"
SEMANTIC = "semantic"
BACKGROUND_VOS = "background_vos"
VOS = "vos"

SEMANTIC_TABLE = "queries/semantic"  # flat name of the table of all classes' queries

Groups = tuple[tuple[str, int], ...]


def group_slice(groups: Groups, name: str) -> slice:
    """Where group `name` lies on the query axis.

    Raises:
      ValueError: when there is no such group.
    """
    start = 0
    for group, size in groups:
        if group == name:
            return slice(start, start + size)
        start += size
    raise ValueError(f"no query group {name!r}; the groups are {[group for group, _ in groups]}")


@flax.struct.dataclass
class QuerySet:
    """The queries of one task for a batch of clips.

    Attributes:
      queries: [B, Q, C] initial queries.
      embeddings: [B, Q, C] added to the queries in attention, as a position would be.
      valid: bool [B, Q]; invalid slots (padding up to a bucket) do not influence the others.
      groups: (name, size) of the groups in the order of the Q axis; static.
    """

    queries: jax.Array
    embeddings: jax.Array
    valid: jax.Array
    groups: Groups = flax.struct.field(pytree_node=False)

    def slice(self, name: str) -> slice:
        """Where group `name` lies on the query axis; ValueError if it is not in the set."""
        return group_slice(self.groups, name)

    def select(self, *names: str) -> "QuerySet":
        """The set of these groups alone, in the order of `names`; ValueError if one is not in the set."""
        parts = [self.slice(name) for name in names]

        def take(array: jax.Array) -> jax.Array:
            return jnp.concatenate([array[:, part] for part in parts], axis=1)

        groups = tuple((name, part.stop - part.start) for name, part in zip(names, parts, strict=True))
        return QuerySet(take(self.queries), take(self.embeddings), take(self.valid), groups)


@flax.struct.dataclass
class ObjectQueries:
    """Queries made from targets given by example (VOS and PET).

    Attributes:
      background: [B, G, C], one per cell of the background grid.
      objects: [B, N, q, C]; a point object uses the first of its q slots.
      valid: bool [B, N, q]; invalid slots hold arbitrary finite values.
    """

    background: jax.Array
    objects: jax.Array
    valid: jax.Array


class QueryTables(nnx.Module):
    """Learned queries, float32. Row 0 of a table is the embedding that all its queries share, rows 1.. the queries.

    Attributes:
      semantic: [1 + sum of K, C]; the datasets' classes follow one another in alphabetical order of dataset names.
      instance: [1 + num_instance_queries, C].
      background: [1 + num_background_queries, C].
      background_vos: [1 + num_background_queries, C]; the embedding of the object encoder's background queries. The
        rows after it are unused and kept so that checkpoints of the reference convert both ways.
      vos: [1, C], the embedding of the object encoder's object queries.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        num_classes = sum(count for _, count in config.semantic_classes)

        def table(num_queries: int) -> nnx.Param:
            return nnx.Param(jax.random.normal(rngs.params(), (1 + num_queries, config.hidden_size), jnp.float32))

        self.semantic = table(num_classes)
        self.instance = table(config.num_instance_queries)
        self.background = table(config.num_background_queries)
        self.background_vos = table(config.num_background_queries)
        self.vos = table(0)

    def class_query_set(self, dataset: str, batch_size: int) -> QuerySet:
        """Instance, background and semantic queries of `dataset`, for VIS and VPS.

        Raises:
          ValueError: when the model has no classes of that dataset.
        """
        rows_of = semantic_rows(self.config.semantic_classes)
        if dataset not in rows_of:
            raise ValueError(
                f"dataset {dataset!r} has no semantic queries in this model; "
                f"ModelConfig.semantic_classes has {sorted(rows_of)}"
            )
        return self.query_set_of_classes(self.semantic[...][slice(*rows_of[dataset])], batch_size)

    def query_set_of_classes(self, semantic: jax.Array, batch_size: int) -> QuerySet:
        """As `class_query_set`, with the semantic queries themselves, [K, C]."""
        parts = [
            (INSTANCE, self.instance[...][0], self.instance[...][1:]),
            (BACKGROUND, self.background[...][0], self.background[...][1:]),
            (SEMANTIC, self.semantic[...][0], semantic),
        ]
        queries = jnp.concatenate([rows for _, _, rows in parts])
        embeddings = jnp.concatenate([jnp.broadcast_to(embedding, rows.shape) for _, embedding, rows in parts])
        shape = (batch_size, *queries.shape)
        return QuerySet(
            queries=jnp.broadcast_to(queries, shape),
            embeddings=jnp.broadcast_to(embeddings, shape),
            valid=jnp.ones(shape[:2], bool),
            groups=tuple((name, rows.shape[0]) for name, _, rows in parts),
        )

    def exemplar_query_set(self, objects: ObjectQueries) -> QuerySet:
        """Background and object queries (the q slots of an object next to each other), for VOS and PET."""
        batch_size, num_background, hidden_size = objects.background.shape
        vos = objects.objects.reshape(batch_size, -1, hidden_size)  # [B, N q, C]
        queries = jnp.concatenate([objects.background, vos], axis=1)
        embeddings = jnp.concatenate(
            [
                jnp.broadcast_to(self.background_vos[...][0], objects.background.shape),
                jnp.broadcast_to(self.vos[...][0], vos.shape),
            ],
            axis=1,
        )
        valid = jnp.concatenate(
            [jnp.ones((batch_size, num_background), bool), objects.valid.reshape(batch_size, -1)], axis=1
        )
        groups = ((BACKGROUND_VOS, num_background), (VOS, vos.shape[1]))
        return QuerySet(queries=queries, embeddings=embeddings, valid=valid, groups=groups)


def semantic_rows(semantic_classes: tuple[tuple[str, int], ...]) -> dict[str, tuple[int, int]]:
    """(first row, row after the last) of each dataset's queries in the semantic table."""
    rows = {}
    start = 1
    for name, num_classes in sorted(semantic_classes):
        rows[name] = (start, start + num_classes)
        start += num_classes
    return rows
