"""`RunLogger`: a folder for each run, and no two runs in one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from runs.logger import RunLogger


def version(save_dir: Path | str = "logs") -> int | str:
    return RunLogger(save_dir, "cnn").version


def test_versions_count_up_from_zero() -> None:
    assert [version(), version(), version()] == [0, 1, 2]
    assert sorted(path.name for path in Path("logs/cnn").iterdir()) == ["version_0", "version_1", "version_2"]


def test_a_logger_keeps_its_version() -> None:
    logger = RunLogger("logs", "cnn")
    assert [logger.version, logger.version] == [0, 0]
    assert logger.log_dir == str(Path("logs/cnn/version_0"))


def test_a_folder_is_claimed_as_soon_as_its_number_is_known_and_not_before() -> None:
    logger = RunLogger("logs", "cnn")
    assert not Path("logs").exists()
    assert Path(logger.log_dir).is_dir()


def test_runs_that_start_together_get_folders_of_their_own() -> None:
    together = Barrier(16)

    def start(_: int) -> int | str:
        logger = RunLogger("logs", "cnn")
        together.wait()
        return logger.version

    with ThreadPoolExecutor(16) as pool:
        versions = list(pool.map(start, range(16)))
    assert sorted(versions) == list(range(16))


def test_a_new_run_comes_after_all_others_whatever_lies_between() -> None:
    for name in ("version_0", "version_7", "version_x", "notes"):
        Path("logs/cnn", name).mkdir(parents=True)
    assert version() == 8


def test_recipes_count_on_their_own() -> None:
    version()
    assert RunLogger("logs", "mlp").version == 0


def test_no_hparams_yaml_is_left_beside_the_config() -> None:
    logger = RunLogger("logs", "cnn", default_hp_metric=False)
    logger.log_hyperparams({"a": 1})
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    logger.finalize("success")
    assert not list(Path("logs").rglob("hparams.yaml"))
    assert list(Path("logs").rglob("events.out.tfevents.*"))
