"use strict";
// The page knows nothing that the server does not: after each change it shows the clicks that the server read back.

const byId = id => document.getElementById(id);
const PAUSE = 60;  // seconds, beyond which somebody did something else
const ZOOM = 1.25, NEAR = 12;  // NEAR: pixels of the screen

let study = {scans: [], classes: {}, run: null};
let kinds = [];       // the names of the classes of infection
let background, healthy;  // the names that mean these, if any do
let scan = null;      // of the server's answer, with its number
let shown = 0;        // the slice that is on the screen, which a click is of
let wanted = 0;       // the slice that is asked for
let zoom = 1;
let done = [];        // what undo takes back: {added: click} or {removed: click}
let since = performance.now();
let pointer = null;   // where the pointer is, in pixels of the slice
let doubts = [];
let order = [];       // of the slices, when the most doubtful come first
let busy = Promise.resolve();

async function ask(path, body) {
  const how = body === undefined ? {} :
    {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)};
  let answer;
  try {
    answer = await fetch(path, how);
  } catch {
    throw new Error("cbseg.click does not answer; was it ended? Start it again, and open the address that it prints");
  }
  if (answer.status === 204) return null;
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.headers.get("Content-Type") === "image/png" ? answer.blob() : answer.json();
}

function say(error) {
  byId("error").textContent = error ? error.message : "";
  byId("error").hidden = !error;
}

// One change after the other, so that no click overtakes its predecessor.
function change(what) {
  busy = busy.then(async () => {
    try {
      await what();
      say(null);
    } catch (error) {
      say(error);
      await reread().catch(() => {});
    }
    draw();
  });
  return busy;
}

async function open(number) {
  say(null);
  byId("scan").value = number;
  byId("status").textContent = "opening…";
  const now = open.last = Symbol();
  try {
    const answer = await ask(`scan?scan=${number}`);
    if (open.last !== now) return;
    scan = {...answer, number};
  } catch (error) {
    if (open.last !== now) return;
    scan = null;
    say(error);
    byId("slice").width = byId("prediction").width = 0;
    return draw();
  }
  done = [];
  doubts = [];
  const [slices, rows, columns] = scan.shape;
  for (const id of ["slice", "prediction"]) Object.assign(byId(id), {width: columns, height: rows});
  byId("clicks").setAttribute("viewBox", `0 0 ${columns} ${rows}`);
  byId("place").max = slices - 1;
  byId("window").replaceChildren(...scan.windows.map(name => new Option(name)));
  fit();
  since = performance.now();
  const first = scan.clicks.length ? scan.clicks.at(-1).slice : Math.floor(slices / 2);
  await show(Math.min(Math.max(first, 0), slices - 1));
  watch(number);
}

function fit() {
  const [, rows, columns] = scan.shape, [, high, wide] = scan.spacing;
  const {clientWidth, clientHeight} = byId("frame");
  zoom = Math.max(Math.min((clientWidth - 20) / (columns * wide), (clientHeight - 20) / (rows * high)), .1);
  size();
}

function size() {
  const [, rows, columns] = scan.shape, [, high, wide] = scan.spacing;
  byId("stage").style.width = `${columns * wide * zoom}px`;
  byId("stage").style.height = `${rows * high * zoom}px`;
}

async function show(k) {
  wanted = k;
  const of = scan;
  const asked = `scan=${of.number}&slice=${k}`;
  try {
    const picture = await createImageBitmap(await ask(`slice.png?${asked}&window=${encodeURIComponent(byId("window").value)}`));
    const answer = study.run && byId("predicted").checked ? await ask(`prediction.png?${asked}`) : null;
    const prediction = answer && await createImageBitmap(answer);
    if (scan !== of || wanted !== k) return;
    byId("slice").getContext("2d").drawImage(picture, 0, 0);
    const context = byId("prediction").getContext("2d");
    context.clearRect(0, 0, of.shape[2], of.shape[1]);
    if (prediction) context.drawImage(prediction, 0, 0);
    shown = k;
    byId("prediction").dataset.of = prediction ? k : "";
  } catch (error) {
    if (scan === of && wanted === k) say(error);
  }
  draw();
}

function here() {
  return scan ? scan.clicks.filter(click => click.slice === shown) : [];
}

const isHealthy = click => study.classes[click.name] === "all";

function draw() {
  const svg = byId("clicks"), clicks = here();
  const pixel = scan ? scan.shape[2] / byId("stage").clientWidth : 1, tall = scan ? scan.shape[1] / byId("stage").clientHeight : 1;
  svg.replaceChildren(...clicks.filter(click => !isHealthy(click)).map(click => {
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "ellipse");
    const kind = {0: "background", 1: "infection"}[study.classes[click.name]] || "other";
    dot.setAttribute("class", `click ${kind}${click.fixed ? " fixed" : ""}`);
    for (const [name, value] of Object.entries({cx: click.column + .5, cy: click.row + .5, rx: 5 * pixel, ry: 5 * tall}))
      dot.setAttribute(name, value);
    dot.append(Object.assign(document.createElementNS("http://www.w3.org/2000/svg", "title"), {textContent: click.label}));
    return dot;
  }));
  const calm = clicks.some(isHealthy);
  byId("healthy").setAttribute("aria-pressed", calm);
  byId("healthy").disabled = !healthy;
  byId("undo").disabled = !done.length;
  byId("doubtful").disabled = !study.run;
  byId("predicted").disabled = !study.run;
  document.body.dataset.slice = scan ? shown : "";
  if (!scan) return void (byId("status").textContent = "this scan cannot be shown");
  byId("place").value = shown;
  const known = doubts.filter(doubt => doubt !== null).length;
  const slices = new Set(scan.clicks.map(click => click.slice)).size;
  byId("status").textContent = `slice ${shown + 1} of ${scan.shape[0]}` + (calm ? ", healthy" : "")
    + `; ${scan.clicks.length} clicks on ${slices} slices`
    + (study.run && doubts.length && known < doubts.length ? `; ${known} of ${doubts.length} slices predicted` : "")
    + (doubts[shown] != null ? `; doubt ${(100 * doubts[shown]).toFixed(1)} %` : "");
  byId("scan").options[scan.number].textContent = `${study.scans[scan.number].name} (${scan.clicks.length})`;
}

// Seconds since the last click, or since the scan was opened; none after a pause.
function lap() {
  const seconds = (performance.now() - since) / 1000;
  since = performance.now();
  return seconds <= PAUSE ? Math.max(seconds, .1) : null;
}

async function reread() {
  if (scan) scan.clicks = (await ask(`scan?scan=${scan.number}`)).clicks;
}

function same(a, b) {
  return ["slice", "row", "column", "name"].every(key => a[key] === b[key]);
}

async function add(click, seconds) {
  scan.clicks = await ask("add", {scan: scan.number, ...click, seconds});
  return scan.clicks.findLast(other => same(other, click) && !other.fixed);
}

async function remove(click) {
  scan.clicks = await ask("remove", {scan: scan.number, ...click});
}

function mark(row, column, name, slice = shown) {
  const seconds = lap();
  return change(async () => done.push({added: await add({slice, row, column, name}, seconds)}));
}

function drop(click) {
  return change(async () => {
    await remove(click);
    done.push({removed: click});
  });
}

function toggleHealthy() {
  const marked = here().find(isHealthy);
  if (marked) return drop(marked);
  if (healthy) mark(Math.floor(scan.shape[1] / 2), Math.floor(scan.shape[2] / 2), healthy);
}

function undo() {
  return change(async () => {
    const last = done.pop();
    if (!last) return;
    if (last.added) await remove(last.added);
    else await add(last.removed, null);
    const {slice} = last.added || last.removed;
    if (slice !== shown) await show(slice);
  });
}

function dropNearest() {
  if (!pointer) return;
  const {clientWidth, clientHeight} = byId("stage"), [, rows, columns] = scan.shape;
  const away = click => Math.hypot((click.column + .5 - pointer.x) * clientWidth / columns, (click.row + .5 - pointer.y) * clientHeight / rows);
  const near = here().filter(click => !isHealthy(click) && !click.fixed && away(click) < NEAR).sort((a, b) => away(a) - away(b));
  if (near.length) drop(near[0]);
}

function move(steps) {
  if (!scan) return;
  if (byId("doubtful").checked && order.length) {
    const at = order.indexOf(wanted);
    return show(order[Math.min(Math.max((at < 0 ? -Math.sign(steps) : at) - Math.sign(steps), 0), order.length - 1)]);
  }
  return show(Math.min(Math.max(wanted + steps, 0), scan.shape[0] - 1));
}

// Ask how far the prediction has come, until it is done.
async function watch(number) {
  while (study.run && scan && scan.number === number) {
    const before = doubts.filter(doubt => doubt !== null).length;
    try {
      const answer = await ask(`doubts?scan=${number}`);
      if (!scan || scan.number !== number) return;
      doubts = answer.doubts;
      if (answer.error) return say(new Error(answer.error));
    } catch (error) {
      return say(error);
    }
    sort();
    if (doubts[shown] != null && byId("predicted").checked && byId("prediction").dataset.of !== String(shown)) await show(shown);
    else if (doubts.filter(doubt => doubt !== null).length !== before) draw();
    if (doubts.length && doubts.every(doubt => doubt !== null)) return;
    await new Promise(resolve => setTimeout(resolve, 700));
  }
}

function sort() {
  order = [...doubts.keys()].filter(k => doubts[k] !== null).sort((a, b) => doubts[b] - doubts[a]);
}

function choose(id, value) {
  byId(id).value = value;
  byId(id).dispatchEvent(new Event("change"));
}

function turn(steps) {
  choose("scan", (Number(byId("scan").value) + steps + study.scans.length) % study.scans.length);
}

function rescale(by) {
  if (!scan) return;
  zoom = Math.min(Math.max(zoom * by, .1), 40);
  size();
  draw();
}

const KEYS = {
  h: () => scan && toggleHealthy(), z: undo, x: () => scan && dropNearest(), Delete: () => scan && dropNearest(),
  ArrowUp: () => move(1), ArrowDown: () => move(-1), PageUp: () => move(10), PageDown: () => move(-10),
  w: () => scan && choose("window", scan.windows[(scan.windows.indexOf(byId("window").value) + 1) % scan.windows.length]),
  p: () => byId("predicted").click(), d: () => byId("doubtful").click(), n: () => turn(1), b: () => turn(-1),
  "+": () => rescale(ZOOM), "=": () => rescale(ZOOM), "-": () => rescale(1 / ZOOM),
};

// The event gives whole pixels of the screen: half of one more is the middle of that under the pointer.
function pixel(event) {
  const box = byId("stage").getBoundingClientRect(), [, rows, columns] = scan.shape;
  return {x: (event.clientX + .5 - box.left) / box.width * columns, y: (event.clientY + .5 - box.top) / box.height * rows};
}

byId("stage").addEventListener("mousedown", event => {
  if (!scan || event.button > 2 || event.button === 1) return;
  event.preventDefault();
  const {x, y} = pixel(event), name = event.button === 2 ? background : byId("class").value;
  if (name) mark(Math.floor(y), Math.floor(x), name);
});
byId("stage").addEventListener("mousemove", event => { pointer = scan && pixel(event); });
byId("stage").addEventListener("mouseleave", () => { pointer = null; });
byId("stage").addEventListener("contextmenu", event => event.preventDefault());
byId("frame").addEventListener("wheel", event => {
  event.preventDefault();
  if (event.ctrlKey) rescale(event.deltaY < 0 ? ZOOM : 1 / ZOOM);
  else if (event.deltaY) move(event.deltaY < 0 ? 1 : -1);
}, {passive: false});
addEventListener("keydown", event => {
  if (event.altKey || event.metaKey || (event.ctrlKey && event.key !== "z")) return;
  const number = Number(event.key);
  if (number >= 1 && number <= kinds.length) byId("class").selectedIndex = number - 1;
  else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
});
byId("scan").addEventListener("change", event => { event.target.blur(); open(Number(event.target.value)); });
byId("window").addEventListener("change", event => { event.target.blur(); if (scan) show(shown); });
byId("predicted").addEventListener("change", event => { event.target.blur(); if (scan) show(shown); });
byId("doubtful").addEventListener("change", event => {
  event.target.blur();
  if (event.target.checked && order.length) show(order[0]);
});
byId("class").addEventListener("change", event => event.target.blur());
byId("place").addEventListener("input", event => { if (scan) show(Number(event.target.value)); });
for (const [id, act] of Object.entries({
  healthy: KEYS.h, undo, previous: KEYS.b, next: KEYS.n, closer: KEYS["+"], farther: KEYS["-"],
})) byId(id).addEventListener("click", event => { event.target.blur(); act(); });
addEventListener("focus", () => { if (scan) change(reread); });

(async () => {
  try {
    study = await ask("study");
  } catch (error) {
    return say(error);
  }
  byId("scan").replaceChildren(...study.scans.map(({name, clicks, error}, k) => new Option(error ? `${name} (!)` : `${name} (${clicks})`, k)));
  const named = test => Object.keys(study.classes).filter(name => test(study.classes[name]));
  kinds = named(value => value > 0);
  [background] = named(value => value === 0);
  [healthy] = named(value => value === "all");
  byId("class").replaceChildren(...kinds.map(name => new Option(name)));
  await open(0);
})();
