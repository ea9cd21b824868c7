"""What the metrics have seen of an epoch that is not over, in plain types: Lightning's checkpoints leave it out."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torch import Tensor
from torchmetrics import Metric

META = (
    *("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx"),
    *("dataloader_idx", "metric_attribute"),
)


def metric_state(trainer: Trainer, module: LightningModule) -> list[dict[str, Any]]:
    """For each process, the states of the module's torchmetrics and of what `self.log` has gathered."""
    logged = trainer.fit_loop.epoch_loop._results
    own = {
        "metrics": {name: _of_metric(metric) for name, metric in _metrics(module)},
        "logged": {key: _of_result(item) for key, item in logged.items() if not item.has_reset},
    }
    if trainer.world_size == 1:
        return [own]
    everybody: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(everybody, own)
    return everybody


def load_metric_state(trainer: Trainer, module: LightningModule, states: list[dict[str, Any]]) -> None:
    """Put back what `metric_state` gave; with another number of processes than then, the epoch's metrics begin anew."""
    if len(states) != trainer.world_size:
        return
    state, device = states[trainer.global_rank], trainer.strategy.root_device
    metrics = dict(_metrics(module))
    for name, saved in state["metrics"].items():
        if name in metrics:
            _to_metric(metrics[name], saved, device)
    logged = trainer.fit_loop.epoch_loop._results
    for key, saved in state["logged"].items():
        attribute = saved["meta"]["metric_attribute"]
        if saved["is_tensor"] or attribute in metrics:
            logged[key] = _to_result(trainer, saved, metrics.get(attribute), device)


def _metrics(module: LightningModule) -> list[tuple[str, Metric]]:
    return [(name, part) for name, part in module.named_modules() if isinstance(part, Metric)]


def _of_metric(metric: Metric) -> dict[str, Any]:
    values = {name: _copied(getattr(metric, name)) for name in metric._defaults}
    return {"values": values, "update_count": metric._update_count}


def _to_metric(metric: Metric, saved: dict[str, Any], device: torch.device) -> None:
    for name, value in saved["values"].items():
        setattr(metric, name, _copied(value, device))
    metric._update_count, metric._computed = saved["update_count"], None


def _copied(value: Any, device: torch.device | str = "cpu") -> Any:
    if isinstance(value, list):
        return [_copied(item, device) for item in value]
    return value.detach().clone().to(device) if isinstance(value, Tensor) else value


def _of_result(item: _ResultMetric) -> dict[str, Any]:
    meta = {name: getattr(item.meta, name) for name in META}
    meta["reduce_fx"] = item.meta.reduce_fx.__name__
    sync = item.meta.sync
    saved: dict[str, Any] = {"meta": meta, "is_tensor": item.is_tensor, "forward": _copied(item._forward_cache)}
    saved["sync"] = {"should": sync.should, "op": sync.op, "rank_zero_only": sync.rank_zero_only}
    if item.is_tensor:
        saved.update(_of_metric(item))
    return saved


def _to_result(trainer: Trainer, saved: dict[str, Any], metric: Metric | None, device: torch.device) -> _ResultMetric:
    meta = _Metadata(**saved["meta"])
    sync = saved["sync"]
    meta.sync = _Sync(
        _should=sync["should"], fn=trainer.strategy.reduce, rank_zero_only=sync["rank_zero_only"], _op=sync["op"]
    )
    item = _ResultMetric(meta, saved["is_tensor"])
    if saved["is_tensor"]:
        _to_metric(item, saved, device)
    else:
        item.value = metric
        item._update_count = 1
    item._forward_cache = _copied(saved["forward"], device)
    return item.to(device)
