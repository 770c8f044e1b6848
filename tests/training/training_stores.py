"""Reference stores for the training tests, made by the command's own function."""

from mallowspo.cli.reference import ReferenceOptions
from mallowspo.cli.reference_run import make_store


def store_of(folder, model, rows, **changes):
    rows.to_parquet(str(folder.parent / f"{folder.name}.parquet"))
    return make_store(
        ReferenceOptions(
            model_name_or_path=str(model),
            dataset_name=str(folder.parent / f"{folder.name}.parquet"),
            output_dir=folder,
            max_length=256,
            shard_rows=10,
            **changes,
        )
    )
