# A model boxed into the runtime: docker build -f containers/boxed.Dockerfile -t my-model:1 FOLDER
# FOLDER holds model.onnx and model.onnx.sha256. The build fails when they do not belong together, or the model does not
# answer its golden patches.
ARG IMAGE=histo-edge:cpu
# hadolint ignore=DL3006
FROM ${IMAGE}
COPY model.onnx model.onnx.sha256 /models/
ENV HISTO_MODEL=/models/model.onnx
RUN ["histo-doctor"]
