// Shows what changes, without moving what a person looks at.
const byId = (id) => document.getElementById(id), live = byId("live"), pause = byId("pause");
const page = document.body.dataset, units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
let time = +page.now, heard = Date.now(), stream, paused, held;
const now = () => time + (Date.now() - heard) / 1000;
const put = (text, data) => text.data === data || (text.data = data);

function say(text, kind = "") {
  put(live.firstChild, text);
  live.className = kind;
}

function lasting(seconds) { // as _words.py
  const [unit, size] = units.find((each) => seconds >= 2 * each[1]) || units[3];
  return Math.floor(seconds / size) + " " + unit;
}

function tick() {
  for (const each of document.querySelectorAll("time")) {
    const past = now() - Date.parse(each.dateTime) / 1000, span = lasting(Math.abs(past));
    put(each.firstChild, each.className ? span : past < 0 ? "in " + span : span + " ago");
  }
  if (stream && Date.now() - heard > 40000) lost();
}

function change(old, fresh) {
  if (old.nodeType === 3) return put(old, fresh.data);
  for (const { name } of [...old.attributes, ...fresh.attributes]) {
    const value = fresh.getAttribute(name);
    if (name !== "open") value === null ? old.removeAttribute(name) : old.setAttribute(name, value);
  }
  const nodes = [...fresh.childNodes];
  for (const { id } of [...old.children]) if (id && !nodes.some((node) => node.id === id)) byId(id).remove();
  let place = old.firstChild;
  for (const node of nodes) {
    const same = node.id ? byId(node.id) : place && !place.id && place.nodeName === node.nodeName && place;
    if (same && same === place) place = place.nextSibling;
    else old.insertBefore(same || node, place);
    if (same) change(same, node);
  }
  while (place) [place] = [place.nextSibling, place.remove()];
}

function show() {
  if (!held || !getSelection().isCollapsed) return;
  const focus = document.activeElement, html = Object.values(held).join("");
  for (const fresh of document.createRange().createContextualFragment(html).children) change(byId(fresh.id), fresh);
  held = null;
  if (focus.isConnected) focus.focus({ preventScroll: true });
}

function hear({ data }) {
  const update = JSON.parse(data);
  [time, heard, document.title] = [update.now, Date.now(), update.title];
  held = { ...held, ...update.sections };
  say("Live");
  show();
}

function lost() {
  stream = stream?.close();
  say("Connection lost: this is old", "lost");
  setTimeout(start, 3000);
}

function start() {
  stream = stream?.close();
  if (paused || document.hidden) return;
  [time, heard, stream] = [now(), Date.now(), new EventSource(page.events)];
  [stream.onmessage, stream.onerror] = [hear, lost];
}

pause.onclick = () => {
  paused = !paused;
  pause.textContent = paused ? "Go on" : "Pause";
  say(paused ? "Paused" : "");
  start();
};
document.onselectionchange = show;
document.onvisibilitychange = start;
setInterval(tick, 1000);
start();
