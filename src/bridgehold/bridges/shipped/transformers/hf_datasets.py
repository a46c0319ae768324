"""Operations on the session's data sets: records of text to train with."""

from __future__ import annotations

from typing import Any

import hf_data

from bridgehold_sdk import Store, operation


class Datasets:
    """``create_dataset`` and its kin, of a bridge that trains."""

    datasets: Store[hf_data.Data]

    @operation(effect="create", resource="dataset", id_field="id")
    def create_dataset(self, records: list[dict[str, Any]], id: str | None = None) -> dict[str, Any]:
        """Keep records: a text each, and a label where something is to be told apart."""
        data = hf_data.create(records)
        return {"dataset_id": self.datasets.add(data, id), "rows": len(records), "fields": data.fields}

    @operation(effect="read", resource="dataset")
    def list_datasets(self) -> dict[str, Any]:
        """The session's data sets."""
        listed = [
            {"dataset_id": name, "rows": len(data.records), "fields": data.fields, "created": data.created}
            for name, data in self.datasets.items()
        ]
        return {"datasets": listed, "total_count": len(listed)}

    @operation(effect="read", resource="dataset", id_field="dataset_id")
    def page_dataset(self, dataset_id: str, offset: int = 0, limit: int = 100) -> dict[str, Any]:
        """Some records of a data set."""
        records = self.datasets.get(dataset_id).records
        end = offset + limit
        return {
            "dataset_id": dataset_id,
            "records": records[offset:end],
            "offset": offset,
            "total_rows": len(records),
            "next_offset": end if end < len(records) else None,
        }

    @operation(effect="delete", resource="dataset", id_field="dataset_id")
    def delete_dataset(self, dataset_id: str) -> dict[str, Any]:
        """Forget a data set."""
        self.datasets.delete(dataset_id)
        return {"dataset_id": dataset_id, "status": "deleted"}
