"""A price is what somebody gave, with its source, or unknown: never a guess."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from worldmodel.errors import UserError
from worldmodel.run.prices import FILE, HOUR, PROVIDER, SHIPPED, count_held, find_price, parse_prices, read_prices

FIGURE = {"value": 2.5, "date": "2026-02", "source": "an invoice"}
CONTENT = {
    "gpus": {"big": {"pattern": "A100.*80GB", "bf16_tflops": {**FIGURE, "value": 312}}, "small": {"pattern": "T4"}},
    "providers": {
        "cheap": {"gpu_hour": {"big": {**FIGURE, "value": 1.0}}},
        "dear": {"gpu_hour": {"big": FIGURE, "small": FIGURE}, "egress_gb": FIGURE},
    },
}
BIG, SMALL = {"gpu": "NVIDIA A100-SXM4-80GB"}, {"gpu": "Tesla T4"}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (FILE, HOUR, PROVIDER):
        monkeypatch.delenv(name, raising=False)


def test_a_kind_that_one_provider_has_costs_what_it_asks_and_says_so() -> None:
    price = find_price(SMALL, parse_prices(yaml.safe_dump(CONTENT), "file"))
    assert price.usd_per_hour == 2.5
    assert price.origin == "small of dear, 2026-02: an invoice"


def test_of_several_providers_the_named_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    prices = parse_prices(yaml.safe_dump(CONTENT), "file")
    unknown = find_price(BIG, prices)
    assert unknown.usd_per_hour is None
    assert all(word in unknown.origin for word in ("cheap $1", "dear $2.5", f"set {PROVIDER}"))
    monkeypatch.setenv(PROVIDER, "cheap")
    assert find_price(BIG, prices).usd_per_hour == 1.0
    assert find_price(SMALL, prices).usd_per_hour is None
    monkeypatch.setenv(PROVIDER, "cheep")
    with pytest.raises(UserError, match=r"WORLDMODEL_PROVIDER=cheep.*did you mean 'cheap'"):
        find_price(BIG, prices)


def test_a_gpu_of_a_machine_costs_its_part_and_big_clouds_stand_first() -> None:
    machine = {"big8": {**FIGURE, "value": 24.0, "gpu": "big", "gpus": 8}}
    offers = {"dear": {"gpu_hour": {"big": FIGURE}}, "gcp": {"machine_hour": machine}, "aws": {"machine_hour": machine}}
    found = parse_prices(yaml.safe_dump({**CONTENT, "providers": offers}), "file").list_offers("big")
    assert list(found) == ["aws", "gcp", "dear"]
    assert found["aws"].value == 3.0
    assert "big8, 8 GPUs at 24 an hour" in found["aws"].source


@pytest.mark.parametrize("device", [BIG, SMALL, {"gpu": "NVIDIA A100-SXM4-40GB"}, {"name": "Some CPU"}])
@pytest.mark.parametrize("text", ["0", "1.75"])
def test_the_users_own_price_wins_over_everything(
    monkeypatch: pytest.MonkeyPatch, device: dict[str, str], text: str
) -> None:
    monkeypatch.setenv(HOUR, text)
    for prices in (None, parse_prices(yaml.safe_dump(CONTENT), "file")):
        assert find_price(device, prices).usd_per_hour == float(text)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "2 dollars"])
def test_what_is_no_price_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(HOUR, text)
    with pytest.raises(UserError, match=f"{HOUR}={text}: expected dollars"):
        find_price(BIG, None)


@pytest.mark.parametrize("device", [{"gpu": "NVIDIA A100-SXM4-40GB"}, {"name": "Some CPU"}, {}])
def test_an_unknown_price_says_what_to_set(device: dict[str, str]) -> None:
    for prices in (None, parse_prices(yaml.safe_dump(CONTENT), "file")):
        price = find_price(device, prices)
        assert price.usd_per_hour is None
        assert f"set {HOUR}" in price.origin


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpus: [", "not valid YAML"),
        ("- 1", "the file: "),
        ("gpus: {a: {patern: x}}", "did you mean 'pattern'"),
        ("gpus: {a: {pattern: '('}}", "is no regular expression"),
        ("providers: {p: {egress_gb: {value: -1, date: now, source: me}}}", "providers.p.egress_gb.value"),
        ("providers: {p: {egress_gb: {value: 1, source: me}}}", "providers.p.egress_gb.date: Field required"),
        ("providers: {p: {gpu_hour: {big: {value: 1, date: now, source: me}}}}", "'big' is not among gpus"),
        ("providers: {p: {machine_hour: {m: {value: 1, gpu: b, date: now, source: me}}}}", "'b' is not among gpus"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused_with_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setenv(FILE, str(tmp_path / "mine.yaml"))
    with pytest.raises(UserError) as caught:
        read_prices()
    assert said in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_a_file_that_is_named_must_be_there_the_shipped_one_need_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldmodel.run.prices.SHIPPED", tmp_path / "absent.yaml")
    assert read_prices() is None
    monkeypatch.setenv(FILE, str(tmp_path / "absent.yaml"))
    with pytest.raises(UserError, match=r"absent.yaml cannot be read"):
        read_prices()


NAMES = {
    "NVIDIA A100-SXM4-80GB": "A100-80GB",
    "NVIDIA A100 80GB PCIe": "A100-80GB",
    "NVIDIA A100-SXM4-40GB": "A100-40GB",
    "NVIDIA A100-PCIE-40GB": "A100-40GB",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100-PCIe",
    "NVIDIA H200": "H200",
    "NVIDIA L4": "L4",
    "NVIDIA L40S": None,
    "Tesla T4": "T4",
    "NVIDIA GeForce RTX 4090": None,
}


def test_the_shipped_file_finds_kinds_by_the_names_that_torch_reports() -> None:
    if not SHIPPED.exists():
        pytest.skip("no checkout: the price file is not part of the package")
    prices = read_prices()
    assert prices is not None
    assert {name: prices.find_kind(name) for name in NAMES} == NAMES


def test_workers_hold_their_gpus_and_share_a_machine_without() -> None:
    assert count_held(BIG, 0.25, 1) == 0.25
    assert count_held(BIG, 1.0, 4) == 4.0
    assert count_held({}, 0.5, 1) == 0.5
    assert count_held({}, 1.0, 4) == 1.0
