// The live part of the console: takes sections as HTML by server-sent events and puts what changed in its place,
// so that the focus, what is selected and where boxes are scrolled to stay. Without it the page is as complete, and old.
"use strict";
(() => {
  const board = document.getElementById("board");
  if (!board || !window.EventSource) return;
  const said = document.getElementById("stream");
  const pause = document.getElementById("pause");
  const LATE_MS = 5000, RENEW_MS = 5 * 60000;
  let events = null, last = Date.now(), opened = 0, paused = false, ended = false;

  const say = (text, bad) => {
    if (said.textContent === text) return;
    said.textContent = text;
    said.className = bad ? "negative" : "";
  };

  // Makes `to` of `from`, keeping every element that is still there. Rows are known by data-key.
  const change = (from, to) => {
    if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) { from.replaceWith(to); return; }
    if (from.nodeType !== Node.ELEMENT_NODE) { if (from.data !== to.data) from.data = to.data; return; }
    for (const a of [...from.attributes]) {  // what somebody has opened stays open
      if (!to.hasAttribute(a.name) && !(a.name === "open" && from.nodeName === "DETAILS")) from.removeAttribute(a.name);
    }
    for (const a of to.attributes) if (from.getAttribute(a.name) !== a.value) from.setAttribute(a.name, a.value);
    children(from, to);
  };
  const children = (from, to) => {
    const keyed = new Map([...from.children].filter(e => e.dataset.key).map(e => [e.dataset.key, e]));
    let at = from.firstChild;
    for (const next of [...to.childNodes]) {
      const own = next.dataset && next.dataset.key ? keyed.get(next.dataset.key) : null;
      if (own) { keyed.delete(next.dataset.key); if (own !== at) from.insertBefore(own, at); else at = at.nextSibling; change(own, next); continue; }
      if (at && !(at.dataset && at.dataset.key) && !(next.dataset && next.dataset.key)) {
        const here = at; at = at.nextSibling; change(here, next); continue;
      }
      from.insertBefore(next, at);
    }
    while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
  };

  const show = message => {
    last = Date.now();
    const told = JSON.parse(message.data);
    for (const [name, html] of Object.entries(told.sections)) {
      const place = document.getElementById("s-" + name);
      if (place) children(place, new DOMParser().parseFromString("<body>" + html, "text/html").body);
    }
    board.dataset.number = told.number;
    if (told.error) say("No new figures: " + told.error, true); else say("Live");
  };
  const close = () => { if (events) events.close(); events = null; };
  const open = () => {
    close();
    opened = last = Date.now();
    events = new EventSource(board.dataset.events);
    events.addEventListener("board", show);
    events.addEventListener("ended", message => { ended = true; close(); say(JSON.parse(message.data).text, true); });
    events.onerror = () => {
      if (events && events.readyState === EventSource.CLOSED && !ended) {
        say("Not connected: the session has ended, or too many watch. Load the page again.", true);
        close();
      }
    };
  };

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    if (paused) { close(); say("Paused"); } else { ended = false; open(); }
  });
  setInterval(() => {
    const late = Date.now() - last;
    if (events && late > LATE_MS) say("No new figures for more than " + LATE_MS / 1000 + " s", true);
  }, 1000);
  // Somebody is there: a new stream is a new sign of life. A page that nobody touches ends with its session.
  for (const kind of ["keydown", "pointerdown"]) {
    addEventListener(kind, () => { if (events && Date.now() - opened > RENEW_MS) open(); }, { passive: true });
  }
  addEventListener("pagehide", close);
  addEventListener("pageshow", e => { if (e.persisted && !paused && !ended) open(); });
  open();
})();
