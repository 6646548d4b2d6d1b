"""What embed does with stores beside the file: it checks them before it embeds, and uploads after."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from csn_jax.store.embeddings import Embeddings
from csn_jax.store.postgres import place_of

if TYPE_CHECKING:
    from csn_jax.embed import Args


def check_stores(
    args: "Args", name: str, model_sha256: str, conditions: tuple[str, ...], n: int, columns: Iterable[str]
) -> None:
    """Raise what uploads of n items would raise, as far as that can be known before they are embedded."""
    if args.to_qdrant:
        from csn_jax.store.qdrant import check_place

        check_place(args.to_qdrant, name, model_sha256, n, rebuild=args.rebuild, yes=args.yes)
    if args.to_postgres:
        from csn_jax.embed.to_postgres import check_place

        check_place(args.to_postgres, name, model_sha256, [*columns], conditions, rebuild=args.rebuild)


def store(args: "Args", name: str, embeddings: Embeddings) -> None:
    """Upload embeddings, and print what was sent."""
    if args.to_qdrant:
        from csn_jax.store.qdrant import upload

        sent, gone = upload(embeddings, args.to_qdrant, name, rebuild=args.rebuild, update=args.update)
        counts = f" in the collection {name}; {sent:,} sent, {gone:,} removed"
        counts = counts if sent or gone else f" already, in the collection {name}"
        print(f"{args.to_qdrant} holds these {len(embeddings.ids):,} vectors{counts}")
    if args.to_postgres:
        from csn_jax.embed.to_postgres import upload

        sent, gone = upload(embeddings, args.to_postgres, name, rebuild=args.rebuild, update=args.update)
        counts = f"; {sent:,} sent, {gone:,} removed" if sent or gone else " already"
        place = place_of(args.to_postgres)
        print(f"{place} holds these {len(embeddings.ids):,} vectors in the table {name}{counts}")
