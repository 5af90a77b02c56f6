// The lens of a photo on a page of any shape, as the projection that WebGL wants.

/**
 * Set a camera's projection to that of a pinhole whose principal point may lie off centre.
 *
 * On a page of the photo's shape the two agree pixel for pixel. On any other the scale is halfway, as a ratio, between
 * showing the whole photo and filling the page with it.
 *
 * @param {import("three").Camera} camera whose projection is set
 * @param {{width: number, height: number, fx: number, fy: number, cx: number, cy: number}} lens px of the photo
 * @param {number} width of the page, px
 * @param {number} height of the page, px
 * @param {number} near distance from which on Gaussians are drawn, world units
 * @param {number} far likewise, up to which
 */
export function setProjection(camera, lens, width, height, near, far) {
  const scale = Math.sqrt((width / lens.width) * (height / lens.height));
  const shiftX = ((2 * lens.cx - lens.width) * scale) / width;
  const shiftY = ((2 * lens.cy - lens.height) * scale) / height;
  camera.projectionMatrix.set(
    (2 * lens.fx * scale) / width, 0, -shiftX, 0,
    0, (2 * lens.fy * scale) / height, shiftY, 0,
    0, 0, (far + near) / (near - far), (2 * far * near) / (near - far),
    0, 0, -1, 0,
  );
  camera.projectionMatrixInverse.copy(camera.projectionMatrix).invert();
}
