// The outline of the source, on which the part to repaint is picked; what is wrong, said at its field; a song that
// plays by itself; what was typed, which outlives the page; and what those hear who do not see the page.
const acestage = (() => {
  const RATE_HZ = 8000;
  const HANDLE_PX = 8;
  const CLICK_PX = 4;
  const COLUMNS = 1000;
  let source = null; // {durationS, outline}: the least and the largest sample of each column
  let asked = null; // the file that is to be shown; an older one may still be on its way
  let grabbed = null; // {otherS, clientX, isDragged}: the other end of the part while it is drawn

  const field = (name) => document.getElementById(`field-${name}`);
  const canvas = () => document.querySelector("#source-wave canvas");
  const isPickable = () => field("start_s") !== null && field("start_s").offsetParent !== null;

  function number(name) {
    const value = field(name)?.querySelector("input")?.value ?? "";
    return value === "" ? null : Number(value);
  }

  function setNumber(name, value) {
    const input = field(name).querySelector("input");
    // The page's framework hears only of values that are set as a user would.
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, String(value));
    input.dispatchEvent(new Event("input", { bubbles: true }));
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  async function showSource(file) {
    asked = file;
    source = null;
    draw();
    if (!file) return;
    try {
      const answer = await fetch(file.url);
      const audio = await new OfflineAudioContext(1, 1, RATE_HZ).decodeAudioData(await answer.arrayBuffer());
      if (asked === file) source = { durationS: audio.duration, outline: outlineOf(audio.getChannelData(0)) };
    } catch {
      return; // a format that this browser does not know: the numbers still do
    }
    draw();
  }

  function outlineOf(samples) {
    return Array.from({ length: COLUMNS }, (_, column) => {
      const first = Math.floor((column / COLUMNS) * samples.length);
      const last = Math.max(Math.floor(((column + 1) / COLUMNS) * samples.length), first + 1);
      let [low, high] = [0, 0];
      for (let i = first; i < last; i++) {
        low = Math.min(low, samples[i]);
        high = Math.max(high, samples[i]);
      }
      return [low, high];
    });
  }

  function draw() {
    const area = canvas();
    if (!area) return;
    const isShown = source !== null && field("source") !== null && field("source").offsetParent !== null;
    area.classList.toggle("is-drawn", isShown);
    area.classList.toggle("is-pickable", isShown && isPickable());
    if (!isShown) return;
    const width = (area.width = Math.max(area.clientWidth, 1) * devicePixelRatio);
    const height = (area.height = area.clientHeight * devicePixelRatio);
    const style = getComputedStyle(area);
    const context = area.getContext("2d");
    if (isPickable()) {
      const [start, end] = part();
      context.fillStyle = style.getPropertyValue("--color-accent");
      context.globalAlpha = 0.25;
      context.fillRect((start / source.durationS) * width, 0, ((end - start) / source.durationS) * width, height);
      context.globalAlpha = 1;
    }
    context.fillStyle = style.getPropertyValue("--body-text-color-subdued");
    // Along the upper edge to the right, and along the lower one back.
    const place = (value, column) => [(column / (COLUMNS - 1)) * width, ((1 - value) / 2) * height];
    context.beginPath();
    source.outline.forEach(([, high], column) => context.lineTo(...place(high, column)));
    source.outline.toReversed().forEach(([low], back) => context.lineTo(...place(low, COLUMNS - 1 - back)));
    context.fill();
  }

  function part() {
    return [number("start_s") ?? 0, number("end_s") ?? source.durationS];
  }

  function secondsAt(event) {
    const box = canvas().getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    return share * source.durationS;
  }

  // Down to hundredths, so that nothing lies beyond the source; at its ends the fields are left empty.
  function setPart(one, other) {
    const [start, end] = [Math.min(one, other), Math.max(one, other)];
    setNumber("start_s", start <= 0 ? "" : (Math.floor(start * 100) / 100).toFixed(2));
    setNumber("end_s", end >= source.durationS ? "" : (Math.floor(end * 100) / 100).toFixed(2));
    draw();
  }

  function grab(event) {
    if (event.target !== canvas() || !source || !isPickable() || !event.isPrimary || event.button !== 0) return;
    const here = secondsAt(event);
    const reach = (HANDLE_PX / canvas().clientWidth) * source.durationS;
    const [start, end] = part();
    // An end that is near is moved; anywhere else a new part begins.
    const otherS = Math.abs(here - start) < reach ? end : Math.abs(here - end) < reach ? start : here;
    grabbed = { otherS, clientX: event.clientX, isDragged: false };
    canvas().setPointerCapture(event.pointerId);
  }

  document.addEventListener("pointerdown", grab);
  document.addEventListener("pointermove", (event) => {
    if (grabbed === null) return;
    grabbed.isDragged ||= Math.abs(event.clientX - grabbed.clientX) >= CLICK_PX;
    if (grabbed.isDragged) setPart(grabbed.otherS, secondsAt(event));
  });
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => (grabbed = null));
  window.addEventListener("resize", draw);

  function clearFaults(within = document) {
    for (const fault of within.querySelectorAll(".fault")) {
      fault.parentElement.classList.remove("has-fault");
      fault.parentElement.querySelector("input, textarea")?.removeAttribute("aria-invalid");
      fault.parentElement.querySelector("input, textarea")?.removeAttribute("aria-describedby");
      fault.remove();
    }
  }

  async function showFaults(faults) {
    if (Object.keys(faults ?? {}).some((name) => !field(name)?.offsetParent)) await openFields();
    clearFaults();
    for (const [name, text] of Object.entries(faults ?? {})) {
      const place = field(name);
      if (!place) continue;
      const fault = document.createElement("p");
      fault.className = "fault";
      fault.id = `fault-${name}`;
      fault.setAttribute("role", "alert");
      fault.textContent = text;
      place.classList.add("has-fault");
      const input = place.querySelector("input, textarea");
      input?.setAttribute("aria-invalid", "true");
      input?.setAttribute("aria-describedby", fault.id);
      place.append(fault);
    }
    document.querySelector(".has-fault")?.scrollIntoView({ block: "nearest" });
  }

  // What is closed hides its fields, which before it was opened are not even there.
  async function openFields() {
    for (const button of document.querySelectorAll(".of-fields > button.label-wrap:not(.open)")) button.click();
    await nextFrames();
  }

  document.addEventListener("input", (event) => {
    const place = event.target.closest?.("[id^=field-]");
    if (place) clearFaults(place);
    if (grabbed === null && ["field-start_s", "field-end_s"].includes(place?.id)) draw();
  });

  // A song that begins has no faults yet.
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#generate")) clearFaults();
  });

  // The page's framework makes a player twice and drops one, which with "autoplay" would load the song as well.
  new MutationObserver(() => {
    const player = document.querySelector("audio[data-plays]");
    if (!player) return;
    player.removeAttribute("data-plays");
    player.play().catch(() => {}); // the browser may want a click first
  }).observe(document, { childList: true, subtree: true });

  const region = document.createElement("div");
  region.className = "heard-only";
  region.setAttribute("role", "status");
  document.body.append(region);
  let announced = "";

  // Steps and seconds change all the time; another one of `stages` is told, and the end.
  function announce(status, stages) {
    const stage = stages.find((name) => status.startsWith(`${name}:`)) ?? status.split(/\d/)[0];
    if (stage === announced) return;
    announced = stage;
    region.textContent = status;
  }

  // The takes of a song that was heard while it was made: what was not there yet comes to the players, and they get
  // the finished file, which has a length, as soon as they do not play.
  function finishTakes(takes) {
    for (const [id, take] of Object.entries(takes ?? {})) {
      const figure = document.getElementById(id);
      const player = figure?.querySelector("audio");
      if (!player || player.preload === "metadata") continue;
      figure.querySelector("figcaption").textContent = take.title;
      player.setAttribute("aria-label", take.title);
      figure.querySelector(".details").innerHTML = take.details;
      if (player.paused) takeFile(player);
      else player.addEventListener("pause", () => takeFile(player), { once: true });
    }
  }

  function takeFile(player) {
    const at = player.ended ? 0 : player.currentTime;
    player.preload = "metadata";
    player.load();
    if (at > 0) player.currentTime = at;
  }

  // What differs from the values with which the page begins is kept as long as the tab: over a reload, the page in
  // the other language, and a server that starts anew.
  const KEPT = "acestage.fields";
  let initial = null; // a Map of values by name
  const isSame = (one, other) => JSON.stringify(one) === JSON.stringify(other);

  function keptFields() {
    try {
      return JSON.parse(sessionStorage.getItem(KEPT) ?? "{}");
    } catch {
      return {}; // the browser keeps nothing, or another program wrote there
    }
  }

  // Of the fields `names` with `values`: what they are to be instead.
  function takeUp(names, values) {
    initial = new Map(names.map((name, index) => [name, values[index]]));
    const kept = keptFields();
    return names.map((name, index) => (name in kept ? kept[name] : values[index]));
  }

  function keep(names, values) {
    if (initial === null) return;
    const changed = names.flatMap((name, index) =>
      isSame(values[index], initial.get(name)) ? [] : [[name, values[index]]]
    );
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(changed)));
    } catch {
      // the same, or it is full
    }
  }

  // Fields change a moment after the page's framework was told so.
  const nextFrames = () => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)));
  const redraw = () => nextFrames().then(draw);

  function refilled() {
    clearFaults();
    return redraw();
  }

  return { showSource, showFaults, redraw, refilled, announce, finishTakes, takeUp, keep };
})();
