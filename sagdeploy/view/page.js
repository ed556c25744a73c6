// The list of slides, the panes of one of them, and the keys.

import { Pane, percent } from "./pane.js";

const find = (id) => document.getElementById(id);
const state = { slides: [], panes: [], slide: null, maps: [], leader: 0, rank: -1, opening: 0 };

async function get(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

function notice(text) {
  find("notice").hidden = !text;
  find("notice").textContent = text;
}

// The list: sorted by the first model's probability of a class; slides without one come last.
function list() {
  const name = find("class").value;
  const share = (slide) => slide.results.map((result) => result?.probabilities[name]).find((value) => value !== undefined) ?? -1;
  state.slides.sort((a, b) => share(b) - share(a) || a.slide_id.localeCompare(b.slide_id));
  find("slides").replaceChildren(...state.slides.map((slide) => row(slide, share(slide))));
  mark();
}

function row(slide, share) {
  const item = document.createElement("li"), button = document.createElement("button"), text = document.createElement("span");
  const image = new Image(), id = document.createElement("b"), said = document.createElement("em");
  image.loading = "lazy";
  image.alt = "";
  image.src = `${slide.key}/thumbnail.jpg`;
  id.textContent = button.title = slide.slide_id;
  const first = slide.results.find(Boolean), label = document.createElement("span"), value = document.createElement("span");
  label.textContent = first.label || first.status.replace("_", " ");
  value.textContent = share < 0 ? "" : percent(share);
  said.append(label, value);
  text.append(id, said);
  if (share >= 0) {
    const bar = document.createElement("i");
    bar.style.setProperty("--share", `${100 * share}%`);
    text.append(bar);
  }
  button.type = "button";
  button.dataset.slide = slide.slide_id;
  button.append(image, text);
  button.addEventListener("click", () => open(slide));
  item.append(button);
  return item;
}

function mark() {
  for (const button of find("slides").querySelectorAll("button")) {
    const current = button.dataset.slide === state.slide?.slide_id;
    button.ariaCurrent = current || null;
    if (current) button.scrollIntoView({ block: "nearest" });
  }
}

async function open(slide) {
  const opening = ++state.opening;
  Object.assign(state, { slide, maps: [], rank: -1 });
  mark();
  find("title").textContent = document.title = slide.slide_id;
  find("tiles").replaceChildren();
  if (!slide.size_l0) {
    for (const pane of state.panes) { pane.slide = slide; pane.viewer.close(); pane.show(null); pane.describe(slide.results[pane.model]); }
    notice("No model read this slide.");
    return;
  }
  notice("Looking for the slide whose SHA-256 the result holds ...");
  try {
    const done = state.panes.map((pane) => slide.results[pane.model]?.status === "done");
    const [source, ...maps] = await Promise.all([
      get(`${slide.key}/slide.json`),
      ...done.map((isDone, model) => isDone ? get(`${slide.key}/${model}/attention.json`) : null),
    ]);
    if (opening !== state.opening) return; // another slide was chosen meanwhile
    Object.assign(state, { maps, colours: source.colours });
    notice(source.found ? "" : "The slide's file was not found: start sagdeploy view with --slides FOLDER, where it lies.");
    for (const pane of state.panes) pane.open(slide, source, slide.results[pane.model]);
    magnifications();
    show();
  } catch (error) {
    notice(error.message);
  }
}

function magnifications() {
  const known = state.maps.find(Boolean) ?? [];
  find("magnifications").hidden = known.length < 2;
  find("magnification").replaceChildren(...known.map((map, index) => new Option(`mpp ${map.mpp}`, index)));
}

function show() {
  const magnification = Number(find("magnification").value || 0);
  for (const pane of state.panes) {
    pane.tile = null;
    pane.show(state.maps[pane.model]?.[magnification] ?? null, find("scale").value, state.colours);
  }
  fade();
  strip();
}

function fade() {
  for (const pane of state.panes) pane.overlay.opacity = find("opacity").value / 100;
}

// The most attended tiles of the leading model.
function strip() {
  const magnification = Number(find("magnification").value || 0);
  const count = state.slide.results[state.leader]?.top_tiles[magnification] ?? 0;
  state.rank = -1;
  find("tiles").replaceChildren(...Array.from({ length: count }, (_, rank) => {
    const item = document.createElement("li"), button = document.createElement("button");
    const image = new Image(), number = document.createElement("b");
    image.src = `${state.slide.key}/${state.leader}/top/${magnification}_${rank}.jpg`;
    image.alt = `Tile ${rank + 1}`;
    number.textContent = rank + 1;
    button.type = "button";
    button.append(image, number);
    button.addEventListener("click", () => step(rank));
    item.append(button);
    return item;
  }));
  say();
}

function step(rank) {
  const pane = state.panes[state.leader], top = pane.map?.top;
  if (!top?.length) return;
  state.rank = Math.min(Math.max(rank, 0), top.length - 1);
  pane.goTo(state.rank);
  for (const other of state.panes) if (other !== pane && other.map) { other.tile = pane.tile; }
  find("tiles").querySelectorAll("button").forEach((button, index) => {
    button.ariaCurrent = index === state.rank || null;
    if (index === state.rank) button.scrollIntoView({ inline: "nearest", block: "nearest" });
  });
  say();
}

function say() {
  const map = state.panes[state.leader]?.map, tile = map?.top[state.rank];
  find("rank").textContent = tile ? `Tile ${state.rank + 1} of ${map.tiles.toLocaleString("en")}` : "Most attended tiles";
  const [x, y] = tile ? map.xy_l0[tile.row] : [];
  find("place").textContent = tile
    ? `${Number((100 * tile.attention).toPrecision(3))} % attention,\n${Number((tile.attention * map.tiles).toPrecision(3))} x even\nx ${x.toLocaleString("en")}, y ${y.toLocaleString("en")}`
    : map ? "n and p step through them" : "";
}

function lead(pane) {
  if (state.leader === pane.model) return;
  state.leader = pane.model;
  for (const each of state.panes) each.element.classList.toggle("active", each === pane);
  if (state.maps.length) strip();
}

// All panes look at what the leader looks at.
function align() {
  const leader = state.panes[state.leader];
  for (const pane of state.panes) if (pane !== leader) pane.follow(leader);
}

function neighbour(step) {
  const at = state.slides.indexOf(state.slide) + step;
  if (state.slides[at]) open(state.slides[at]);
}

function theme() {
  const isLight = document.documentElement.classList.toggle("light");
  find("theme").textContent = isLight ? "Dark" : "Light";
}

function toggle(control, values) {
  const input = find(control), next = values.find((value) => value !== input.value);
  input.value = next;
  input.dispatchEvent(new Event("input"));
}

let opacity = "50";
const KEYS = {
  n: () => step(state.rank + 1),
  p: () => step(state.rank - 1),
  j: () => neighbour(1),
  k: () => neighbour(-1),
  o: () => { if (find("opacity").value !== "0") opacity = find("opacity").value; toggle("opacity", ["0", opacity]); },
  s: () => toggle("scale", ["percentile", "raw"]),
  d: theme,
  m: () => lead(state.panes[(state.leader + 1) % state.panes.length]),
  0: () => state.panes.forEach((pane) => pane.fit()),
};

async function start() {
  state.slides = (await get("slides.json")).map((slide, key) => ({ ...slide, key }));
  const models = state.slides[0].results.length;
  state.panes = Array.from({ length: models }, (_, model) => new Pane(model, find("pane"), lead));
  find("panes").append(...state.panes.map((pane) => pane.element));
  find("panes").classList.toggle("several", models > 1);
  find("switch").hidden = models < 2;
  for (const pane of state.panes) {
    pane.start();
    for (const event of ["update-viewport", "animation-finish"]) pane.viewer.addHandler(event, align);
  }
  state.panes[0].element.classList.add("active");
  const classes = new Set(state.slides.flatMap((slide) => slide.results.flatMap((result) => Object.keys(result?.probabilities ?? {}))));
  find("class").replaceChildren(...[...classes].map((name) => new Option(name)));
  find("class").value = [...classes].at(-1) ?? ""; // by custom the first class is the harmless one
  find("count").textContent = state.slides.length;
  find("class").addEventListener("input", list);
  find("magnification").addEventListener("input", show);
  find("scale").addEventListener("input", show);
  find("opacity").addEventListener("input", fade);
  find("fit").addEventListener("click", KEYS[0]);
  find("theme").addEventListener("click", theme);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
    const act = KEYS[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  if (matchMedia("(prefers-color-scheme: light)").matches) theme();
  list();
  await open(state.slides[0]);
}

start().catch((error) => notice(error.message));
