"""The ledger as a run uses it: charges, replays, budgets, heads, locks, failing disks."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest

from trainer.privacy.accounting import epsilon_pld
from trainer.privacy.errors import BudgetExhausted, LedgerError, PrivacyError
from trainer.privacy.event import Event
from trainer.privacy.ledger import Budget, Head, Ledger, read_ledger

EVENT = Event(units=10_000, sampling_probability=0.01, noise_multiplier=1.0, steps=5, cap=120)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "privacy-ledger.jsonl"


def charged(path: Path, dataset: str = "tickets") -> int:
    return sum(event.steps for event in read_ledger(path).events(dataset))


def test_charges_are_there_when_charge_returns(path: Path) -> None:
    with Ledger.create(path) as ledger:
        assert ledger.budget is None
        assert ledger.releases("tickets") == ()
        ledger.begin("run-1", "tickets", EVENT)
        for step in range(3):
            ledger.charge("run-1", step)
            assert charged(path) == step + 1
        assert ledger.releases("tickets") == (EVENT.of(3),)
        assert ledger.head == read_ledger(path).head
        assert ledger.head.lines == 5
    assert list(path.parent.iterdir()) == [path]
    with Ledger.open(path) as again:
        assert again.releases("tickets") == (EVENT.of(3),)
        assert again.releases("other data") == ()


def test_what_is_made_again_is_charged_again(path: Path) -> None:
    with Ledger.create(path) as ledger:
        ledger.begin("run-1", "tickets", EVENT)
        for step in (0, 1, 2):
            ledger.charge("run-1", step)
    with Ledger.open(path) as ledger:
        # Its last checkpoint was made after the first update.
        ledger.begin("run-1", "tickets", EVENT.of(4))
        for step in (1, 2, 3):
            ledger.charge("run-1", step)
        assert ledger.releases("tickets") == (EVENT.of(6),)
        first, second = ledger.view().releases
    assert (first.charged, first.replayed, first.planned) == (3, 0, 5)
    assert (second.charged, second.replayed, second.planned) == (3, 2, 4)


def test_runs_add_up_and_one_can_be_left_out(path: Path) -> None:
    other = Event(units=10_000, sampling_probability=0.02, noise_multiplier=2.0, steps=9)
    with Ledger.create(path) as ledger:
        for run_id, event in (("a", EVENT), ("b", other), ("c", EVENT.of(2))):
            ledger.begin(run_id, "tickets", event)
            ledger.charge(run_id, 0)
        ledger.begin("d", "letters", EVENT)
        ledger.charge("d", 0)
        ledger.begin("never-charged", "tickets", EVENT)
        assert ledger.releases("tickets") == (EVENT.of(2), other.of(1))
        assert ledger.releases("tickets", without="a") == (other.of(1), EVENT.of(1))
        assert ledger.releases("letters") == (EVENT.of(1),)


def test_only_the_announced_run_is_charged(path: Path) -> None:
    with Ledger.create(path) as ledger:
        with pytest.raises(LedgerError, match="announced last"):
            ledger.charge("run-1", 0)
        ledger.begin("run-1", "tickets", EVENT)
        ledger.begin("run-2", "tickets", EVENT)
        with pytest.raises(LedgerError, match="run-1 is not the one"):
            ledger.charge("run-1", 0)
        with pytest.raises(LedgerError, match="announced for other data"):
            ledger.begin("run-1", "letters", EVENT)
        with pytest.raises(LedgerError, match="whole number"):
            ledger.charge("run-2", -1)
    assert charged(path) == 0


@pytest.mark.parametrize("run_id", ["", "a b", "x" * 65, "../run", "é"])
def test_names_of_runs(path: Path, run_id: str) -> None:
    with Ledger.create(path) as ledger, pytest.raises(LedgerError, match="run's name"):
        ledger.begin(run_id, "tickets", EVENT)


@pytest.mark.parametrize("dataset", ["", "a\nb", "\x1b[31m", "x" * 201])
def test_names_of_data(path: Path, dataset: str) -> None:
    with Ledger.create(path) as ledger, pytest.raises(PrivacyError, match="name of a data set"):
        ledger.begin("run-1", dataset, EVENT)
    with pytest.raises(PrivacyError, match="name of a data set"):
        Budget(dataset, 8.0, 1e-5)


def test_users_and_records_do_not_mix(path: Path) -> None:
    with Ledger.create(path) as ledger:
        ledger.begin("users", "tickets", EVENT, unit="user", user_field="author")
        ledger.charge("users", 0)
        # Protecting a user protects each record of theirs.
        assert ledger.releases("tickets", unit="record") == (EVENT.of(1),)
        assert of_authors(ledger) == (EVENT.of(1),)
        ledger.begin("records", "tickets", EVENT)
        assert of_authors(ledger) == (EVENT.of(1),)
        ledger.charge("records", 0)
        with pytest.raises(PrivacyError, match="protects single records"):
            of_authors(ledger)
        assert of_authors(ledger, without="records") == (EVENT.of(1),)
        for unknown in ("", "person"):
            with pytest.raises(PrivacyError, match="none of record, user"):
                ledger.begin("x", "tickets", EVENT, unit=unknown)


def of_authors(ledger: Ledger, **options: str) -> tuple[Event, ...]:
    return ledger.releases("tickets", unit="user", user_field="author", **options)


def test_users_by_one_field_are_not_users_by_another(path: Path) -> None:
    """The letters of one author may lie in many mailboxes."""
    with Ledger.create(path) as ledger:
        ledger.begin("boxes", "tickets", EVENT, unit="user", user_field="mailbox")
        assert of_authors(ledger) == ()
        ledger.charge("boxes", 0)
        with pytest.raises(PrivacyError, match=r"users by the field 'mailbox'.*'author'"):
            of_authors(ledger)
        assert ledger.releases("tickets") == (EVENT.of(1),)
    assert [each.user_field for each in read_ledger(path).releases] == ["mailbox"]
    assert '"user_field":"mailbox"' in path.read_text()


@pytest.mark.parametrize(("unit", "field"), [("user", ""), ("user", "a\nb"), ("record", "author")])
def test_a_unit_says_by_which_field_it_is_one(path: Path, unit: str, field: str) -> None:
    with Ledger.create(path) as ledger, pytest.raises(PrivacyError, match="field"):
        ledger.begin("run-1", "tickets", EVENT, unit=unit, user_field=field)
    with pytest.raises(PrivacyError, match="field"):
        Budget("tickets", 8.0, 1e-5, unit, field)


class TestBudget:
    # Everybody takes part in every update: quick to account for.
    WHOLE = Event(units=100, sampling_probability=1.0, noise_multiplier=10.0, steps=1)

    def budget(self, steps: int, unit: str = "record") -> Budget:
        """Just enough for so many updates."""
        enough, too_much = (epsilon_pld(self.WHOLE.of(n), 1e-5) for n in (steps, steps + 1))
        field = "author" if unit == "user" else ""
        return Budget("tickets", (enough + too_much) / 2, 1e-5, unit, field)

    def test_it_is_kept_in_the_first_line(self, path: Path) -> None:
        budget = Budget("tickets", 3.5, 1e-6, "user", "author")
        with Ledger.create(path, budget) as ledger:
            assert ledger.budget == budget
        assert read_ledger(path).budget == budget

    def test_a_run_that_does_not_fit_is_refused_before_it_begins(self, path: Path) -> None:
        with Ledger.create(path, self.budget(10)) as ledger:
            before = ledger.head
            with pytest.raises(BudgetExhausted, match="10 of the 11 updates of this run fit"):
                ledger.begin("run-1", "tickets", self.WHOLE.of(11))
            assert ledger.head == before
            ledger.begin("run-1", "tickets", self.WHOLE.of(10))

    def test_earlier_runs_count(self, path: Path) -> None:
        with Ledger.create(path, self.budget(10)) as ledger:
            ledger.begin("run-1", "tickets", self.WHOLE.of(4))
            for step in range(4):
                ledger.charge("run-1", step)
            with pytest.raises(BudgetExhausted, match="6 of the 7"):
                ledger.begin("run-2", "tickets", self.WHOLE.of(7))
            ledger.begin("run-2", "tickets", self.WHOLE.of(6))

    def test_tuning_runs_are_charged_once_and_count_for_later_runs(self, path: Path) -> None:
        with Ledger.create(path, self.budget(10)) as ledger:
            before = ledger.head
            with pytest.raises(BudgetExhausted, match=r"10 of the 12 .* and its tuning runs"):
                ledger.begin("run-1", "tickets", self.WHOLE.of(3), tuning=9)
            assert ledger.head == before
            ledger.begin("run-1", "tickets", self.WHOLE.of(3), tuning=6)
            ledger.charge("run-1", 0)
        with Ledger.open(path) as ledger:
            ledger.begin("run-1", "tickets", self.WHOLE.of(2), tuning=6)
            ledger.charge("run-1", 1)
            assert ledger.releases("tickets") == (self.WHOLE.of(8),)
            with pytest.raises(BudgetExhausted, match="2 of the 3"):
                ledger.begin("run-2", "tickets", self.WHOLE.of(3))

    def test_replays_use_it_up_and_then_nothing_more_is_made(self, path: Path) -> None:
        with Ledger.create(path, self.budget(5)) as ledger:
            ledger.begin("run-1", "tickets", self.WHOLE.of(3))
            # Beyond what was announced each update is reckoned for itself.
            for _ in range(5):
                ledger.charge("run-1", 0)
            for step in (0, 1):
                with pytest.raises(BudgetExhausted, match="no room for another update"):
                    ledger.charge("run-1", step)
        assert charged(path) == 5
        with Ledger.open(path) as ledger, pytest.raises(BudgetExhausted, match="0 of the 1"):
            ledger.begin("run-2", "tickets", self.WHOLE)

    def test_sampled_updates_are_reckoned_as_such(self, path: Path) -> None:
        """As one that everybody takes part in, not one of these would fit."""
        with Ledger.create(path, Budget("tickets", 2.0, 1e-5)) as ledger:
            ledger.begin("run-1", "tickets", EVENT)
            with pytest.raises(BudgetExhausted):
                ledger.begin("run-2", "tickets", dataclasses.replace(EVENT, sampler="unknown"))

    def test_another_name_is_no_way_around_it(self, path: Path) -> None:
        with (
            Ledger.create(path, self.budget(5)) as ledger,
            pytest.raises(LedgerError, match="for 'tickets'"),
        ):
            ledger.begin("run-1", "tickets2", EVENT)

    def test_records_cannot_be_counted_against_users(self, path: Path) -> None:
        with Ledger.create(path, self.budget(5, "user")) as ledger:
            with pytest.raises(LedgerError, match=r"privacy\.unit"):
                ledger.begin("run-1", "tickets", EVENT)
            with pytest.raises(LedgerError, match=r"users by the field 'ticket'.*to 'author'"):
                ledger.begin("run-1", "tickets", EVENT, unit="user", user_field="ticket")
            ledger.begin("run-1", "tickets", self.WHOLE.of(5), unit="user", user_field="author")

    def test_no_noise_fits_no_budget(self, path: Path) -> None:
        bare = Event(units=100, sampling_probability=0.5, noise_multiplier=0.0, steps=1)
        with (
            Ledger.create(path, Budget("tickets", 1e6, 1e-5)) as ledger,
            pytest.raises(BudgetExhausted),
        ):
            ledger.begin("run-1", "tickets", bare)

    @pytest.mark.parametrize(
        ("epsilon", "delta", "unit"),
        [
            (0.0, 1e-5, "record"),
            (-1.0, 1e-5, "record"),
            (float("inf"), 1e-5, "record"),
            (float("nan"), 1e-5, "record"),
            (1.0, 0.0, "record"),
            (1.0, 1.0, "record"),
            (1.0, float("nan"), "record"),
            (1.0, 1e-5, "household"),
        ],
    )
    def test_budgets_that_are_none(self, epsilon: float, delta: float, unit: str) -> None:
        with pytest.raises(PrivacyError):
            Budget("tickets", epsilon, delta, unit)


class TestHead:
    def test_lines_cut_off_the_end_show(self, path: Path) -> None:
        with Ledger.create(path) as ledger:
            ledger.begin("run-1", "tickets", EVENT)
            ledger.charge("run-1", 0)
            ledger.charge("run-1", 1)
            head = ledger.head
        with Ledger.open(path, since=head) as ledger:
            assert ledger.head == head
            ledger.begin("run-2", "tickets", EVENT)
        with Ledger.open(path, since=head):
            pass
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
        # By itself it is a whole ledger ...
        assert charged(path) == 1
        # ... but not the one that was charged.
        with pytest.raises(LedgerError, match="lines were cut off"):
            Ledger.open(path, since=head)

    def test_another_ledger_shows(self, path: Path) -> None:
        Ledger.create(path).close()
        for head in (Head(1, "0" * 64), Head(0, "0" * 64), Head(-1, read_ledger(path).head.link)):
            with pytest.raises(LedgerError, match="not the ledger"):
                Ledger.open(path, since=head)


class TestFile:
    def test_one_run_holds_it(self, path: Path) -> None:
        with Ledger.create(path):
            with pytest.raises(LedgerError, match="another run holds"):
                Ledger.open(path)
            read_ledger(path)
        Ledger.open(path).close()

    def test_a_missing_one_is_never_made_up(self, path: Path) -> None:
        for use in (Ledger.open, read_ledger):
            with pytest.raises(LedgerError, match="no ledger at"):
                use(path)
        assert not path.exists()

    def test_one_that_is_there_is_never_begun_anew(self, path: Path) -> None:
        with Ledger.create(path) as ledger:
            ledger.begin("run-1", "tickets", EVENT)
        with pytest.raises(LedgerError, match="never begun anew"):
            Ledger.create(path)
        assert read_ledger(path).releases[0].run_id == "run-1"
        assert list(path.parent.iterdir()) == [path]

    def test_no_folder(self, path: Path) -> None:
        with pytest.raises(LedgerError, match="cannot write"):
            Ledger.create(path / "x" / "ledger")

    def test_links_and_folders_are_refused(self, path: Path, tmp_path: Path) -> None:
        real = tmp_path / "real"
        Ledger.create(real).close()
        path.symlink_to(real)
        for use in (Ledger.open, read_ledger):
            with pytest.raises(LedgerError, match="symbolic link"):
                use(path)
        with pytest.raises(LedgerError):
            Ledger.open(tmp_path)
        with pytest.raises(LedgerError, match="regular file"):
            read_ledger(tmp_path)

    @pytest.mark.parametrize("how", ["removed", "replaced", "appended", "cut"])
    def test_a_file_that_others_changed_takes_no_charge(self, path: Path, how: str) -> None:
        with Ledger.create(path) as ledger:
            ledger.begin("run-1", "tickets", EVENT)
            data = path.read_bytes()
            if how in ("removed", "replaced"):
                path.unlink()
            if how == "replaced":
                path.write_bytes(data)
            elif how == "appended":
                path.write_bytes(data + b"x")
            elif how == "cut":
                os.truncate(path, len(data) - 1)
            for _ in range(2):
                with pytest.raises(LedgerError, match="changed while a run held it"):
                    ledger.charge("run-1", 0)

    @pytest.mark.parametrize("call", ["write", "fsync"])
    @pytest.mark.parametrize("persisted", [False, True])
    def test_a_disk_that_refuses_ends_it(
        self, path: Path, call: str, persisted: bool, monkeypatch
    ) -> None:
        """Refused before or after the bytes were kept: nothing may count as uncharged."""
        with Ledger.create(path) as ledger:
            ledger.begin("run-1", "tickets", EVENT)
            ledger.charge("run-1", 0)
            real = getattr(os, call)

            def refuse(descriptor: int, *rest: object) -> None:
                if persisted:
                    real(descriptor, *rest)
                raise OSError(errno.ENOSPC, "No space left on device")

            with monkeypatch.context() as broken:
                broken.setattr(os, call, refuse)
                with pytest.raises(LedgerError, match="No space left"):
                    ledger.charge("run-1", 1)
            # The disk would do it now, but what it holds is unknown.
            with pytest.raises(LedgerError, match="continue the run"):
                ledger.charge("run-1", 1)
        assert charged(path) == (1 if call == "write" and not persisted else 2)
        with Ledger.open(path) as ledger:
            ledger.begin("run-1", "tickets", EVENT)
            ledger.charge("run-1", 1)

    def test_a_write_that_stops_half_way_is_gone_on_with(self, path: Path, monkeypatch) -> None:
        real = os.write
        with Ledger.create(path) as ledger:
            monkeypatch.setattr(os, "write", lambda d, data: real(d, bytes(data[:7])))
            ledger.begin("run-1", "tickets", EVENT)
            ledger.charge("run-1", 0)
        assert charged(path) == 1

    def test_a_flush_comes_before_the_charge_counts(self, path: Path, monkeypatch) -> None:
        real, flushed = os.fsync, list[int]()

        def fsync(descriptor: int) -> None:
            real(descriptor)
            flushed.append(os.fstat(descriptor).st_size)

        with Ledger.create(path) as ledger:
            ledger.begin("run-1", "tickets", EVENT)
            monkeypatch.setattr(os, "fsync", fsync)
            ledger.charge("run-1", 0)
            assert flushed == [path.stat().st_size]

    def test_a_full_one_takes_no_more(self, path: Path, monkeypatch) -> None:
        with Ledger.create(path) as ledger:
            ledger.begin("run-1", "tickets", EVENT)
            ledger.charge("run-1", 0)
            monkeypatch.setattr(
                "trainer.privacy.ledger_file.MAX_LEDGER_BYTES", path.stat().st_size + 20
            )
            with pytest.raises(LedgerError, match="full"):
                ledger.charge("run-1", 1)
            monkeypatch.setattr("trainer.privacy.ledger_file.MAX_LEDGER_BYTES", 100)
            with pytest.raises(LedgerError, match="100 at most"):
                read_ledger(path)

    def test_a_closed_one_takes_no_charge(self, path: Path) -> None:
        with Ledger.create(path) as ledger:
            ledger.begin("run-1", "tickets", EVENT)
        ledger.close()
        with pytest.raises(LedgerError, match="closed"):
            ledger.charge("run-1", 0)
