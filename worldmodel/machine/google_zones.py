"""Several zones of Google Cloud in one cluster: Ray's own provider asks a single one."""

from __future__ import annotations

import copy
import json
import re
from typing import Any


class Zones:
    """Takes the place of Ray's access to one zone, of which it holds one for each."""

    def __init__(self, one: Any, names: str) -> None:
        """`names`: zones in the order in which they are asked, with commas between them."""
        self._parts: list[Any] = []
        for name in names.split(","):
            part = copy.copy(one)
            part.availability_zone = name.strip()
            self._parts.append(part)
        self._homes: dict[str, Any] = {}

    def list_instances(self, *arguments: Any) -> list[Any]:
        """Machines of all zones."""
        found = [(node, part) for part in self._parts for node in part.list_instances(*arguments)]
        self._homes.update({node["name"]: part for node, part in found})
        return [node for node, _ in found]

    def create_instances(self, base_config: dict[str, Any], labels: dict[str, str], count: int) -> list[Any]:
        """Each machine in the first zone that has one. Raises what the last zone said where none has."""
        return [self._create(base_config, labels) for _ in range(count)]

    def _create(self, base_config: dict[str, Any], labels: dict[str, str]) -> Any:
        for part in self._parts:
            placed = re.sub(r"\bzones/[^/\"]+/", f"zones/{part.availability_zone}/", json.dumps(base_config))
            try:
                [made] = part.create_instances(json.loads(placed), labels, 1)
            except Exception as error:  # noqa: BLE001  (full, or without such machines: the next is asked)
                refusal = error
            else:
                return made
        raise refusal

    def set_labels(self, node: Any, labels: dict[str, str]) -> Any:
        """Name a machine."""
        return self._find(node["name"]).set_labels(node=node, labels=labels)

    def get_instance(self, node_id: str) -> Any:
        """What Google says of a machine."""
        return self._find(node_id).get_instance(node_id=node_id)

    def delete_instance(self, node_id: str) -> Any:
        """End a machine."""
        return self._find(node_id).delete_instance(node_id=node_id)

    def _find(self, node_id: str) -> Any:
        if node_id not in self._homes:
            self.list_instances()
        return self._homes.get(node_id, self._parts[0])
