"""What an operator changes: freezes, dead letters, replays. Each is looked at, confirmed by a form with a ticket, done
once, and answered by a redirect to a page that says what became of it.
"""

from __future__ import annotations

import asyncio
import hmac
from functools import partial
from typing import Any

import structlog
from starlette.responses import RedirectResponse, Response

from clearline import keys
from clearline.fields import shown
from clearline.gateway.asking import Wait
from clearline.gateway.console.desk import DOOR, OPERATE, PATH, WHY, Page, form_of
from clearline.gateway.console.tickets import opened, ticket
from clearline.gateway.console.works import LEVELS, WHATS, Planned
from clearline.gateway.finance import session as sessions
from clearline.gateway.problems import Problem
from clearline.gateway.writes import write
from ledger.names import LOCAL_NAME, PARTNER_ID
from ledger.reasons import CURE, MEANING, Reason, told_of
from schemas.errors import BadInputError, PartUnavailableError
from schemas.identity import BANK, command_id, route_of
from schemas.records import AccessKey, SetFreeze

log = structlog.get_logger()

NOTE_MAX = 500
WAIT_S = 10
LOOKS, LOOK_S = 20, 0.05
RATES = (50, 500, 5_000)  # letters a second
THE_WORLD = "world"
STOPS = {
    "account": "No new business is taken on this account. Voids, expiry, the bank's adjustments and what is under way "
    "between partitions go on.",
    "partner": "No new business is taken of this partner and of all below it, and none on their accounts. Voids, "
    "expiry, the bank's adjustments and what is under way between partitions go on.",
    "product": "No new business is taken on this product, for any partner.",
    "world": "No new business is taken from anybody in this whole world.",
}
_DONE = "console.done"


# ---- freezes ---------------------------------------------------------------------------------------------------------


async def freeze(page: Page) -> Response:
    """The form that asks what to freeze, or to lift."""
    return _freeze_form(page, page.query)


def _freeze_form(page: Page, given: Any, error: str = "", status: int = 200) -> Response:
    level = given.get("level", "account")
    lift = given.get("lift", "") == "yes"
    return page.html(
        "freeze.html", "Lift a freeze" if lift else "Freeze", status, levels=LEVELS, level=level, lift=lift,
        error=error, subject=given.get("subject", ""), note=given.get("note", ""), note_max=NOTE_MAX,
    )  # fmt: skip


async def confirm_freeze(page: Page) -> Response:
    """What would be done, and the form of the second person."""
    if not page.may_operate:
        return page.message("Not allowed", f"Your key may look only: it lacks the scope {OPERATE}.", 403)
    given = page.query
    try:
        asked = _freeze_of(given)
    except BadInputError as e:
        return _freeze_form(page, given, str(e), 400)
    assert page.session is not None
    return _confirmation(page, asked, ticket(page.parts, page.session, "freeze", asked))


def _confirmation(page: Page, asked: dict[str, Any], sealed: str, error: str = "", status: int = 200) -> Response:
    world = page.parts.settings.world
    what = f"the world {world}" if asked["level"] == THE_WORLD else f"{asked['level']} {asked['subject']}"
    verb = "Freeze" if asked["frozen"] else "Lift the freeze of"
    stops = STOPS[asked["level"]] if asked["frozen"] else "New business is taken again at once."
    return page.html(
        "confirm_freeze.html", f"{verb} {what}?", status, asked=asked, stops=stops, ticket=sealed, error=error,
        by=page.who, button=f"{verb} {what}",
    )  # fmt: skip


def _freeze_of(given: Any) -> dict[str, Any]:
    """A freeze as it was asked for. Raises BadInputError, naming the field."""
    level, subject, note = given.get("level", ""), given.get("subject", ""), given.get("note", "")
    if level not in LEVELS:
        raise BadInputError(f"Level: must be one of {', '.join(LEVELS)}.")
    if level == THE_WORLD:
        subject = THE_WORLD
    owner, _, local = subject.partition(":")
    right = {
        "account": bool(PARTNER_ID.fullmatch(owner) and LOCAL_NAME.fullmatch(local)),
        "partner": bool(PARTNER_ID.fullmatch(subject)), "product": 0 < len(subject) <= 64, "world": True,
    }[level]  # fmt: skip
    if not right or not subject.isprintable():
        raise BadInputError(f"Subject: {shown(subject)} is the name of no {level}.")
    _check_note(note)
    return {"level": level, "subject": subject, "frozen": given.get("lift", "") != "yes", "note": note}


def _check_note(note: str) -> None:
    if not 0 < len(note) <= NOTE_MAX or not note.isprintable():
        raise BadInputError(f"Why: must be said, in at most {NOTE_MAX} printable characters; it stands in the journal.")


async def do_freeze(page: Page) -> Response:
    """Gives the command, when a second person agrees."""
    form = await form_of(page.request)
    assert page.session is not None
    sealed = form.get("ticket", "")
    asked = opened(page.parts, page.session, "freeze", sealed)
    assert page.key is not None
    if wait := await sessions.attempt(page.parts, page.request, DOOR, f"key {page.key.key_id}"):
        return _confirmation(page, asked, sealed, f"Too many attempts; wait {wait} s.", 429)
    second, why = second_person(page, form.get("second_key", ""))
    if second is None:
        return _confirmation(page, asked, sealed, why, 403)
    command = SetFreeze(
        BANK, asked["key"], asked["level"], asked["subject"], asked["frozen"], requested_by=page.who,
        note=asked["note"], approved_by=second.holder,
    )  # fmt: skip
    lifts = not command.frozen and bool(page.console.own.frozen_in(command.level, command.subject_id))
    try:
        written = await write(page.parts, command, Wait(WAIT_S, ""))
    except Problem as e:
        if e.code != "idempotency_conflict":  # else it was sent before with another second person: that stands
            raise
    except PartUnavailableError as e:
        text = f"{e.part} does not answer, so nobody knows whether it was done. Send it again: it is done only once."
        return _confirmation(page, asked, sealed, text, 503)
    else:
        kept = {**written.document, "detail": dict(written.detail), "asked": command, "lifts": lifts}
        _keep(page, asked["key"], kept)
        log.warning(
            "operator_freeze", level=command.level, subject=command.subject_id, frozen=command.frozen, by=page.who,
            approved_by=second.holder, status=written.document["status"],
        )  # fmt: skip
    return RedirectResponse(f"{PATH}/freeze/done?key={asked['key']}", 303)


def second_person(page: Page, token: str) -> tuple[AccessKey | None, str]:
    """The key of a second person who may change things, or the sentence for why it is none."""
    key, why = sessions.refused(page.parts, page.request, token, DOOR)
    if key is None or why:
        return None, f"Second person: {WHY[why]}"
    if OPERATE not in keys.scopes_of(key.scopes):
        return None, f"Second person: this key lacks the scope {OPERATE}."
    assert page.key is not None
    same = hmac.compare_digest(key.key_id, page.key.key_id) or key.holder.lower() == page.key.holder.lower()
    if same:
        return None, f"Second person: this is {page.key.holder}, who is signed in. It must be somebody else."
    return key, ""


async def freeze_done(page: Page) -> Response:
    """What became of it: by what this gateway was answered, else by the journal."""
    name = page.query.get("key", "")
    done = page.parts.memory.get(_DONE, {}).get(name)
    cid = command_id(BANK, name)
    if done is None or done["status"] == "pending":
        found = await page.parts.finder.by_id(cid)
        if found is not None:
            r = found.record
            done = {
                "status": r.outcome, "reason": r.reason, "detail": dict(r.detail),
                "position": {"partition": r.source_partition, "offset": r.source_offset, "sequence": r.sequence},
                "asked": found.command, "one_of": True,
            }  # fmt: skip
    if done is None:
        return page.html(
            "done.html", "No outcome yet", 202, mood="none", again=page.request.url.path + f"?key={name}", facts=[],
            text="Nothing is known of this act yet. If the console lists it below, it was done; else send it again.",
        )  # fmt: skip
    asked = done.get("asked")
    if isinstance(asked, SetFreeze) and len(route_of(asked, page.parts.partitions)[1]) > 1:
        return await _told_of_all(page, done, name, asked)
    return _told_done(page, done, name)


async def _told_of_all(page: Page, done: dict[str, Any], name: str, asked: SetFreeze) -> Response:
    """The same of a freeze that every partition is told. A record of the journal is the word of one of them, so whether
    it holds is what the state of each says."""
    status, every = done["status"], page.parts.partitions
    if status == "applied" and not done.get("one_of"):
        return _told_done(page, done, name)  # all have answered
    # An account of the bank has a shard where somebody opened it, and the other partitions refuse.
    shards = status == "rejected" and done.get("reason") == Reason.ACCOUNT_UNKNOWN and asked.level == "account"
    has = page.console.own.frozen_in(asked.level, asked.subject_id)
    for _ in range(LOOKS if shards and bool(has) != asked.frozen else 0):  # the state is read a moment after the answer
        await asyncio.sleep(LOOK_S)
        has = page.console.own.frozen_in(asked.level, asked.subject_id)
    now = ("Frozen now", f"in {len(has)} of {every} partitions" + (f": {', '.join(map(str, has))}" if has else ""))
    if shards and (has if asked.frozen else done.get("lifts") and not has):
        return _told_done(page, {**done, "status": "applied", "position": None}, name, now)
    if status in ("applied", "repeated") and 0 < len(has) < every and asked.level != "account":
        waiting = ", ".join(str(p) for p in range(every) if (p in has) != asked.frozen)
        text = f"It does not hold in partition {waiting}: nothing is settled there now, or it was changed again since."
        again = f"{PATH}/freeze/done?key={name}"
        facts = [("Key", name), now]
        return page.html("done.html", "Not everywhere yet", mood="bad", text=text, facts=facts, again=again)
    return _told_done(page, done, name, now)


def _told_done(page: Page, done: dict[str, Any], name: str, *more: tuple[str, str]) -> Response:
    place = done.get("position") or {}
    facts = [("Key", name), *more]
    if place:
        facts.append(("Journal", f"partition {place.get('partition')}, record {place.get('sequence')}"))
    match done["status"]:
        case "applied" | "repeated":
            title, mood, text = "Done", "good", "The ledger has applied it; it holds from now on."
        case "pending":
            title, mood = "Not answered yet", "none"
            text = "The log has it, and not every worker concerned has answered yet: it holds where one has."
        case _:
            title, mood = "Refused by the ledger", "bad"
            reason = done.get("reason") or "unknown"
            code = reason if isinstance(reason, str) else str(reason)
            text = f"{code}: {told_of(code, MEANING)} {told_of(code, CURE)}".strip()
            facts += [(str(n), str(v)) for n, v in sorted(done.get("detail", {}).items())]
    again = f"{PATH}/freeze/done?key={name}" if mood == "none" else ""
    return page.html("done.html", title, mood=mood, text=text, facts=facts, again=again)


def _keep(page: Page, key: str, document: dict[str, Any]) -> None:
    kept: dict[str, Any] = page.parts.memory.setdefault(_DONE, {})
    kept[key] = document
    while len(kept) > 1_000:
        del kept[next(iter(kept))]


# ---- dead letters ----------------------------------------------------------------------------------------------------


async def dead_letters(page: Page) -> Response:
    """The letters in groups, and what was done with them."""
    reason = page.query.get("reason", "")
    groups = [g for g in await page.ask(lambda w: w.groups()) if reason in ("", g.reason)]
    tasks = await page.ask(lambda w: w.tasks())
    begun = next((t for t in tasks if t.id == page.query.get("task", "")), None)
    title = f"Dead letters: {reason}" if reason else "Dead letters"
    return page.html("dead_letters.html", title, groups=groups, tasks=tasks, begun=begun, reason=reason)


async def plan_letters(page: Page) -> Response:
    """What a redrive or discard would do, and the form that begins it."""
    if not page.may_operate:
        return page.message("Not allowed", f"Your key may look only: it lacks the scope {OPERATE}.", 403)
    what, reason, pattern = (page.query.get(n, "") for n in ("what", "reason", "pattern"))
    if what not in WHATS:
        raise BadInputError(f"what: must be one of {', '.join(WHATS)}")
    match = [f"reason={reason}", *([f"pattern={pattern}"] if pattern else [])]
    planned = await page.ask(lambda w: w.plan(what, match))
    assert page.session is not None
    fields = {"what": what, "match": match, "digest": planned.digest, "count": planned.to_move}
    return _planned(page, planned, ticket(page.parts, page.session, "letters", fields))


def _planned(page: Page, planned: Planned, sealed: str, error: str = "", note: str = "", status: int = 200) -> Response:
    verb = planned.what.capitalize()
    return page.html(
        "plan.html", f"{verb} {planned.to_move:,} dead letters?", status, planned=planned, ticket=sealed, error=error,
        rates=RATES, note=note, note_max=NOTE_MAX, button=f"{verb} {planned.to_move:,}", by=page.who,
    )  # fmt: skip


async def do_letters(page: Page) -> Response:
    """Begins it; what goes on is told by the page that this leads to."""
    form = await form_of(page.request)
    assert page.session is not None
    sealed = form.get("ticket", "")
    asked = opened(page.parts, page.session, "letters", sealed)
    planned = Planned(asked["what"], asked["match"], asked["digest"], asked["count"])
    note, rate = form.get("note", "").strip(), form.get("rate", "")
    begun: dict[str, Any] = page.parts.memory.setdefault("console.letters", {})
    if asked["key"] not in begun:
        try:
            _check_note(note)
            if rate not in map(str, RATES):
                raise BadInputError(f"Letters a second: must be one of {', '.join(map(str, RATES))}.")
        except BadInputError as e:
            return _planned(page, planned, sealed, str(e), note, 400)
        begin = partial(
            _begin, begun=begun, key=asked["key"], planned=planned, by=page.who, note=note, rate=float(rate)
        )
        try:
            await page.ask(begin)
        except BadInputError as e:
            return _planned(page, planned, sealed, str(e), note, 409)
        log.warning("operator_letters", what=planned.what, letters=planned.to_move, by=page.who, digest=planned.digest)
    return RedirectResponse(f"{PATH}/dead-letters?task={begun[asked['key']]}", 303)


def _begin(works: Any, *, begun: dict[str, Any], key: str, planned: Planned, by: str, note: str, rate: float) -> None:
    """In the thread of the works, where all that is begun is begun one after the other: so a double click is one."""
    if key not in begun:
        begun[key] = works.begin(planned, by=by, note=note, rate=rate)


async def confirm_stop(page: Page) -> Response:
    """The form that cancels a redrive or a discard."""
    return _cancel_form(page, "task", page.query.get("task", ""), "redrive or discard", f"{PATH}/dead-letters/cancel")


async def do_stop(page: Page) -> Response:
    """Cancels it."""
    name, note = await _cancelled(page, "task")
    await page.ask(lambda w: w.stop(name, by=page.who, note=note))
    log.warning("operator_cancel_letters", task=name, by=page.who, note=note)
    return RedirectResponse(f"{PATH}/dead-letters?task={name}", 303)


# ---- replays ---------------------------------------------------------------------------------------------------------


async def confirm_cancel(page: Page) -> Response:
    """The form that cancels a replay."""
    return _cancel_form(page, "replay", page.query.get("replay", ""), "replay", f"{PATH}/replays/cancel")


async def do_cancel(page: Page) -> Response:
    """Cancels it."""
    name, note = await _cancelled(page, "replay")
    await page.ask(lambda w: w.cancel_replay(name, by=page.who, note=note))
    log.warning("operator_cancel_replay", replay=name, by=page.who)
    return RedirectResponse(f"{PATH}#h-replays", 303)


def _cancel_form(page: Page, act: str, name: str, kind: str, action: str) -> Response:
    if not page.may_operate:
        return page.message("Not allowed", f"Your key may look only: it lacks the scope {OPERATE}.", 403)
    if not name or not name.isprintable() or len(name) > 100:
        raise BadInputError(f"{act}: must be the name of a {kind}")
    assert page.session is not None
    sealed = ticket(page.parts, page.session, act, {"name": name})
    return page.html(
        "cancel.html", f"Cancel {kind} {name}?", kind=kind, name=name, action=action, ticket=sealed, note_max=NOTE_MAX
    )


async def _cancelled(page: Page, act: str) -> tuple[str, str]:
    """The name in a form's ticket, and why."""
    form = await form_of(page.request)
    assert page.session is not None
    asked = opened(page.parts, page.session, act, form.get("ticket", ""))
    note = form.get("note", "").strip()
    _check_note(note)
    return str(asked["name"]), note


POST = ("POST",)
PAGES: tuple[tuple[Any, ...], ...] = (
    ("/freeze", "freeze", freeze), ("/freeze/confirm", "freeze", confirm_freeze),
    ("/freeze/do", "freeze", do_freeze, POST), ("/freeze/done", "freeze", freeze_done),
    ("/dead-letters", "dead-letters", dead_letters), ("/dead-letters/plan", "dead-letters", plan_letters),
    ("/dead-letters/do", "dead-letters", do_letters, POST),
    ("/dead-letters/cancel", "dead-letters", confirm_stop), ("/dead-letters/cancel", "dead-letters", do_stop, POST),
    ("/replays/cancel", "live", confirm_cancel), ("/replays/cancel", "live", do_cancel, POST),
)  # fmt: skip
