"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const stages = all(".stage"), pans = all(".pan");
  document.documentElement.classList.add("js");

  // What is shown: one magnification, one group of heads, one scale.
  const chosen = (name) => (find(name) ? find(name).value : "0");
  const show = () => {
    for (const part of all("[data-magnification]")) {
      const other = ["magnification", "heads", "scale"].some((name) => part.dataset[name] && part.dataset[name] !== chosen(name));
      const unwanted = part.classList.contains("place") && !find("places").checked;
      part.hidden = other || unwanted;
    }
    for (const layer of all(".layer")) layer.style.opacity = find("opacity").value / 100;
  };
  for (const id of ["scale", "heads", "magnification", "places", "opacity"]) find(id)?.addEventListener("input", show);
  show();

  // Zoom and pan, the slide with and without its map alike; neither leaves its stage.
  find("alone").src = find("slide").src;
  let zoom = 1, left = 0, top = 0;
  const place = () => {
    const { width, height } = stages[0].getBoundingClientRect();
    left = Math.min(0, Math.max(left, width * (1 - zoom)));
    top = Math.min(0, Math.max(top, height * (1 - zoom)));
    for (const pan of pans) {
      pan.style.transform = `translate(${left}px, ${top}px) scale(${zoom})`;
      pan.style.setProperty("--zoom", zoom);
    }
  };
  const zoomAt = (event) => {
    event.preventDefault();
    const box = event.currentTarget.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const next = Math.min(16, Math.max(1, zoom * Math.exp(-event.deltaY / 400)));
    left = x - (x - left) * (next / zoom);
    top = y - (y - top) * (next / zoom);
    zoom = next;
    place();
  };
  for (const stage of stages) {
    stage.addEventListener("wheel", zoomAt, { passive: false });
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      stage.classList.add("moving");
    });
    stage.addEventListener("pointermove", (event) => {
      if (!stage.hasPointerCapture(event.pointerId)) return;
      left += event.movementX;
      top += event.movementY;
      place();
    });
    stage.addEventListener("pointerup", () => stage.classList.remove("moving"));
  }
  find("reset").addEventListener("click", () => { zoom = 1; left = top = 0; place(); });

  // Look at a place on the slide, its tile a fifth as wide as what is seen.
  const visit = (mark) => {
    const { width, height } = stages[0].getBoundingClientRect();
    const [x, y, wide, high] = ["left", "top", "width", "height"].map((side) => parseFloat(mark.style[side]) / 100);
    zoom = Math.min(16, Math.max(1, 0.2 / wide));
    left = width * (0.5 - zoom * (x + wide / 2));
    top = height * (0.5 - zoom * (y + high / 2));
    place();
    stages[0].scrollIntoView({ block: "nearest" });
  };

  // A tile and its place on the slide light up together; a click goes there.
  for (const tile of all("figure[data-place]")) {
    const mark = find(tile.dataset.place);
    tile.addEventListener("click", () => visit(mark));
    tile.addEventListener("pointerenter", () => mark.classList.add("lit"));
    tile.addEventListener("pointerleave", () => mark.classList.remove("lit"));
  }
})();
